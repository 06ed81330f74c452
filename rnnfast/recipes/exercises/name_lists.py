"""Surnames by language: read, split, and what others make of them."""

from __future__ import annotations

import random
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..._program import UserError, needs
from ..classification import Labelled
from ..data import Found
from ..vocabulary import Vocabulary

HELD_OUT = 0.2
EDGE = "|"  # before and after each name, so that a model sees where it begins and ends


@dataclass(frozen=True)
class Names:
    """Names with their languages.

    Args:
        languages: that there are; train, held_out: pairs of a name and its language's number. A name is in one of
            the two only, in all languages that have it, as often as they do.
    """

    languages: list[str]
    train: list[tuple[str, int]]
    held_out: list[tuple[str, int]]

    @classmethod
    def read(cls, found: Found, seed: int) -> Names:
        """From a file of names for each language, split by name: one in five is held out."""
        languages = sorted(file.removesuffix(".txt") for file in found.files)
        pairs = [(name, i) for i, language in enumerate(languages) for name in found.lines(f"{language}.txt")]
        different = sorted({name for name, _ in pairs})
        random.Random(seed).shuffle(different)
        held_out = set(different[: int(HELD_OUT * len(different))])
        if not held_out:
            raise UserError(f"data: {len(different)} different names, expected at least {round(1 / HELD_OUT)}")
        train = [pair for pair in pairs if pair[0] not in held_out]
        return cls(languages, train, [pair for pair in pairs if pair[0] in held_out])

    def vocabulary(self) -> Vocabulary:
        """The characters of the names to train on."""
        return Vocabulary([EDGE, *sorted({c for name, _ in self.train for c in characters(name)})])

    def classes(self) -> Tensor:
        """Of the names to train on, (N,)."""
        return torch.tensor([language for _, language in self.train])


def characters(name: str) -> str:
    """A name as models see it: in lower case, accents composed with their letters."""
    return unicodedata.normalize("NFC", name).lower()


def labelled(pairs: list[tuple[str, int]], vocabulary: Vocabulary) -> Labelled:
    """Names as a model's tokens."""
    rows = [vocabulary.encode([EDGE, *characters(name), EDGE]) for name, _ in pairs]
    return Labelled.of(rows, [language for _, language in pairs])


def ceiling(pairs: list[tuple[str, int]]) -> float:
    """The accuracy of the best table from names to languages: names of several languages cannot all be right."""
    languages: dict[str, Counter[int]] = defaultdict(Counter)
    for name, language in pairs:
        languages[name][language] += 1
    return sum(max(found.values()) for found in languages.values()) / len(pairs)


def majority(names: Names) -> Tensor:
    """The language that most names to train on have, for each held-out name."""
    return torch.full((len(names.held_out),), int(names.classes().mode().values))


def ngrams(names: Names, balanced: bool) -> Tensor:
    """What a logistic regression on n-grams of one to four characters makes of the held-out names.

    Args:
        balanced: whether each language counts as much as any other in training.
    """
    needs("sklearn", "recipes")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model: Any = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), preprocessor=characters, sublinear_tf=True),
        LogisticRegression(C=10.0, max_iter=300, class_weight="balanced" if balanced else None),
    )
    model.fit([name for name, _ in names.train], names.classes().numpy())
    return torch.from_numpy(model.predict([name for name, _ in names.held_out]))


__all__ = ["Names", "ceiling", "characters", "labelled", "majority", "ngrams"]
