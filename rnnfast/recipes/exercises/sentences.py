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
# The training sentences, and those that are neither, in five grades from very negative to very positive.
GRADED = "stsa.fine.train"
GRADES = 5


@dataclass(frozen=True)
class Sentences:
    """Sentences with their sentiment, 0 or 1, an index into `SENTIMENTS`; graded ones with 0 to 4."""

    words: list[list[str]]
    classes: list[int]

    @classmethod
    def read(cls, found: Found, part: str) -> Sentences:
        """From lines such as ``1 a gorgeous film``.

        Raises:
            UserError: for a line that is none.
        """
        return cls._of(found, FILES[part], len(SENTIMENTS), "0 or 1")

    @classmethod
    def graded(cls, found: Found) -> Sentences:
        """Those to train on, with grades.

        Raises:
            UserError: as above.
        """
        return cls._of(found, GRADED, GRADES, f"0 to {GRADES - 1}")

    @classmethod
    def _of(cls, found: Found, file: str, labels: int, expected: str) -> Sentences:
        words, classes = [], []
        for number, line in enumerate(found.lines(file), 1):
            label, *rest = line.split()
            if label not in map(str, range(labels)) or not rest:
                path = found.files[file]
                raise UserError(f"data: {path}, line {number}: got {line[:40]!r}, expected {expected} and words")
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


__all__ = ["FILES", "GRADED", "GRADES", "SENTIMENTS", "Sentences"]
