"""How experiments tell what they found: tables, and the text's claims beside the measurement."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Claim:
    """Something that the teaching text says, and whether it was found to be so.

    Args:
        text: the claim.
        holds: whether the measurement agrees.
        measured: what was found, in a few words.
    """

    text: str
    holds: bool
    measured: str

    def __str__(self) -> str:
        return f"The text: {self.text}. {'Agrees' if self.holds else 'DISAGREES'}: {self.measured}."


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns of text, the first aligned to the left, all others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def summary(heading: str, found: str, claims: Iterable[Claim]) -> str:
    """What is printed at the end of an experiment."""
    return "\n".join([heading, "", found, "", *map(str, claims)])


def plain(claims: Iterable[Claim]) -> list[dict[str, Any]]:
    """The claims for JSON."""
    return [dataclasses.asdict(claim) for claim in claims]


__all__ = ["Claim", "plain", "summary", "table"]
