"""The Stanford Sentiment Treebank's sentences, positive and negative."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ..._program import UserError
from ..classification import Labelled
from ..data import Found
from ..vocabulary import Vocabulary

FILES = {part: f"stsa.binary.{part}" for part in ("train", "dev", "test")}
SENTIMENTS = ("negative", "positive")


@dataclass(frozen=True)
class Sentences:
    """Sentences with their sentiment, 0 or 1, an index into `SENTIMENTS`."""

    words: list[list[str]]
    classes: list[int]

    @classmethod
    def read(cls, found: Found, part: str) -> Sentences:
        """From lines such as ``1 a gorgeous film``.

        Raises:
            UserError: for a line that is none.
        """
        words, classes = [], []
        for number, line in enumerate(found.lines(FILES[part]), 1):
            label, *rest = line.split()
            if label not in ("0", "1") or not rest:
                path = found.files[FILES[part]]
                raise UserError(f"data: {path}, line {number}: got {line[:40]!r}, expected 0 or 1 and words")
            words.append(rest)
            classes.append(int(label))
        return cls(words, classes)

    def vocabulary(self, least: int) -> Vocabulary:
        """The words that occur as often at least, the most frequent first."""
        counts = Counter(word for sentence in self.words for word in sentence)
        return Vocabulary(word for word, count in counts.most_common() if count >= least)

    def labelled(self, vocabulary: Vocabulary) -> Labelled:
        """As a model's tokens."""
        return Labelled.of([vocabulary.encode(sentence) for sentence in self.words], self.classes)


__all__ = ["FILES", "SENTIMENTS", "Sentences"]
