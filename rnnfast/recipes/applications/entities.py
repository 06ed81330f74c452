"""Sentences with entities marked in them, as CoNLL files have them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..._program import UserError, read_text

BEGIN = "-DOCSTART-"


@dataclass(frozen=True)
class Tagged:
    """A sentence's words, and a tag for each: O, or B- or I- with the kind of entity."""

    words: list[str]
    tags: list[str]


def read(path: Path) -> list[list[Tagged]]:
    """The documents of a file with ``word tag`` in each line, and an empty line after each sentence.

    A document ends with a line that begins with -DOCSTART-, or with the file. Tags of the older form, in which an
    entity begins with B- only where it follows another of its kind, become those in which each begins with B-.

    Raises:
        UserError: for a line that is none of these, or a file without sentences.
    """
    documents: list[list[Tagged]] = [[]]
    words: list[str] = []
    tags: list[str] = []

    def end() -> None:
        if words:
            documents[-1].append(Tagged(words.copy(), begun(tags)))
            words.clear()
            tags.clear()

    for number, line in enumerate(read_text(path, "data").splitlines(), 1):
        parts = line.split()
        if not parts or parts[0] == BEGIN:
            end()
            if parts:
                documents.append([])
        elif len(parts) < 2 or not (parts[-1] == "O" or parts[-1][:2] in ("B-", "I-")):
            raise UserError(f"data: {path}, line {number}: got {line[:40]!r}, expected a word and a tag")
        else:
            words.append(parts[0])
            tags.append(parts[-1])
    end()
    found = [document for document in documents if document]
    if not found:
        raise UserError(f"data: {path} is empty")
    return found


def begun(tags: Sequence[str]) -> list[str]:
    """Tags in which each entity begins with B-, from those in which it does where it must.

    Example:
        >>> begun(["I-PER", "I-PER", "O", "I-LOC", "B-LOC"])
        ['B-PER', 'I-PER', 'O', 'B-LOC', 'B-LOC']
    """
    found = []
    for before, tag in zip(["O", *tags], tags, strict=False):
        follows = tag.startswith("I-") and before[2:] == tag[2:] and before != "O"
        found.append(tag if tag == "O" or follows else f"B-{tag[2:]}")
    return found


def places(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """The first word of each entity, the one after its last, and its kind, where each begins with B-.

    Example:
        >>> places(["B-PER", "I-PER", "O", "B-LOC"])
        [(0, 2, 'PER'), (3, 4, 'LOC')]
    """
    begins = [i for i, tag in enumerate(tags) if tag.startswith("B-")]
    found = []
    for begin in begins:
        end = begin + 1
        while end < len(tags) and tags[end].startswith("I-"):
            end += 1
        found.append((begin, end, tags[begin][2:]))
    return found


def split(documents: list[list[Tagged]], seed: int) -> tuple[list[Tagged], list[Tagged], list[Tagged]]:
    """Sentences of 70 % of the documents to train on, 10 % to choose by, 20 % held out; none is in two of them."""
    order = list(range(len(documents)))
    random.Random(seed).shuffle(order)
    cuts = [0, int(0.7 * len(order)), int(0.8 * len(order)), len(order)]
    parts = [order[a:b] for a, b in itertools.pairwise(cuts)]
    train, dev, test = ([s for i in sorted(part) for s in documents[i]] for part in parts)
    return train, dev, test


__all__ = ["Tagged", "begun", "places", "read", "split"]
