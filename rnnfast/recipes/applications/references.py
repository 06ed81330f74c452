"""True answers of which there may be several, as sacrebleu takes them."""

from __future__ import annotations

from collections.abc import Sequence


def streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """The first of each row's, the second of each, and so on; None where a row has no more.

    Example:
        >>> streams([["a", "b"], ["c"]])
        [['a', 'c'], ['b', None]]
    """
    most = max(map(len, references))
    return [[row[i] if i < len(row) else None for row in references] for i in range(most)]


__all__ = ["streams"]
