"""Sentences and their translations: read, split so that no sentence is on two sides, and cut into pieces."""

from __future__ import annotations

import random
import re
import unicodedata
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..._program import UserError, needs, read_text
from ..vocabulary import padded

ZIP, MEMBER = "fra-eng.zip", "fra.txt"
# The first have the numbers of ..vocabulary.
SPECIAL = ("<padding>", "<unknown>", "<start>", "<end>")
START, END = SPECIAL.index("<start>"), SPECIAL.index("<end>")
SPACES = re.compile(r"\s+")
INVISIBLE = re.compile("[\u00ad\u200b]")
DEV, TEST = 0.01, 0.02  # of the sources

Pair = tuple[str, str]


def tidy(sentence: str) -> str:
    """In one spelling: composed characters, one kind of apostrophe, single spaces, nothing invisible."""
    found = INVISIBLE.sub("", unicodedata.normalize("NFKC", sentence)).replace("\u2019", "'")
    return SPACES.sub(" ", found).strip()


def published(path: Path) -> list[Pair]:
    """English and French sentences of the published archive.

    Raises:
        UserError: if the file is not such a one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(MEMBER).decode("utf-8")
    except (zipfile.BadZipFile, KeyError, OSError, ValueError, EOFError) as error:
        raise UserError(f"data: {path} holds no {MEMBER} in UTF-8: {error}") from None
    return parse(content, f"data: {path}")


def read(path: Path) -> list[Pair]:
    """Pairs of a file of the user's, a sentence, a tab and its translation on each line.

    Raises:
        UserError: for a file that cannot be read, is not UTF-8, or is not of that form.
    """
    return parse(read_text(path, "--text"), f"--text: {path}")


def parse(content: str, where: str) -> list[Pair]:
    """Pairs of lines; what stands behind a second tab, such as attributions, is left out."""
    pairs = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        sides = [tidy(side) for side in line.split("\t")[:2]]
        if len(sides) < 2 or not all(sides):
            raise UserError(f"{where}, line {number}: got {line[:40]!r}, expected a sentence, a tab, another")
        pairs.append((sides[0], sides[1]))
    if not pairs:
        raise UserError(f"{where} is empty")
    return pairs


@dataclass(frozen=True)
class Translated:
    """Sentences, each with all of its translations."""

    sources: list[str]
    targets: list[list[str]]

    @classmethod
    def of(cls, pairs: Iterable[Pair]) -> Translated:
        """Each source once, in the order of the pairs."""
        found: dict[str, dict[str, None]] = {}
        for source, target in pairs:
            found.setdefault(source, {})[target] = None
        return cls(list(found), [list(targets) for targets in found.values()])


def split(pairs: list[Pair], seed: int) -> tuple[Translated, Translated, Translated]:
    """To train on, to choose by, and held out: split by source.

    What is trained on has neither a source nor a target in common with the other two parts.

    Raises:
        UserError: where there are too few.
    """
    sources = list(dict.fromkeys(source for source, _ in pairs))
    random.Random(seed).shuffle(sources)
    dev, test = (max(1, round(share * len(sources))) for share in (DEV, TEST))
    part = {source: 1 if i < dev else 2 for i, source in enumerate(sources[: dev + test])}
    parts: list[list[Pair]] = [[], [], []]
    for pair in pairs:
        parts[part.get(pair[0], 0)].append(pair)
    others = {target for _, target in parts[1] + parts[2]}
    parts[0] = [pair for pair in parts[0] if pair[1] not in others]
    if not parts[0]:
        raise UserError(f"--text: got {len(sources)} different sentences, expected some more to hold some out")
    train, chosen, held_out = map(Translated.of, parts)
    return train, chosen, held_out


class Pieces:
    """Sentences as numbers of their pieces, and back.

    Pieces are found by byte-pair encoding (Sennrich, Haddow and Birch, arXiv:1508.07909), by Hugging Face's
    tokenizers: frequent words are pieces of their own, others are spelt with several.

    Args:
        tokenizer: of that library.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @classmethod
    def learnt(cls, sentences: Iterable[str], size: int) -> Pieces:
        """Of sentences, at most `size` of them."""
        library: Any = needs("tokenizers", "recipes")
        space, sign = library.pre_tokenizers.Metaspace(), library.pre_tokenizers.Punctuation()
        tokenizer = library.Tokenizer(library.models.BPE(unk_token=SPECIAL[1]))
        tokenizer.pre_tokenizer = library.pre_tokenizers.Sequence([space, sign])
        tokenizer.decoder = library.decoders.Metaspace()
        trainer = library.trainers.BpeTrainer(vocab_size=size, special_tokens=list(SPECIAL), show_progress=False)
        tokenizer.train_from_iterator(sentences, trainer)
        return cls(tokenizer)

    @classmethod
    def parse(cls, text: str) -> Pieces:
        """From what :meth:`text` gave.

        Raises:
            ValueError: for anything else.
        """
        library: Any = needs("tokenizers", "recipes")
        try:
            return cls(library.Tokenizer.from_str(text))
        except Exception as error:  # the library has no class of its own for what it cannot read
            raise ValueError(f"text: got no tokenizer: {error}") from None

    def text(self) -> str:
        """All of it, for a checkpoint."""
        return self.tokenizer.to_str()

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encode(self, sentence: str) -> list[int]:
        """Numbers of a sentence's pieces."""
        return self.tokenizer.encode(tidy(sentence)).ids

    def decode(self, numbers: list[int]) -> str:
        """The sentence that pieces spell."""
        return self.tokenizer.decode(numbers).strip()

    def shown(self, numbers: list[int]) -> list[str]:
        """The pieces themselves, each that begins a word with a space before it."""
        return [self.tokenizer.id_to_token(n).replace("\u2581", " ") for n in numbers]


def batch(sources: list[list[int]], targets: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Sources (B, S), their lengths (B,), and targets (B, T) with :data:`START` and :data:`END`."""
    rows, lengths = padded(sources)
    return rows, lengths, padded([[START, *target, END] for target in targets])[0]


def many(pieces: Pieces, sentences: list[str]) -> list[list[int]]:
    """Numbers of many sentences at once."""
    return [found.ids for found in pieces.tokenizer.encode_batch([tidy(s) for s in sentences])]


__all__ = [
    "END",
    "START",
    "ZIP",
    "Pieces",
    "Translated",
    "batch",
    "many",
    "published",
    "read",
    "split",
    "tidy",
]
