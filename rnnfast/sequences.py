"""How the rows of a sequence batch lie in memory.

Arrays are padded, (T, B, G, W) or with ``batch_first`` (B, T, G, W), or packed as in
:class:`torch.nn.utils.rnn.PackedSequence`, (N, G, W), with ``batch_sizes`` giving the active rows of each step.
T steps, B rows of the batch, G groups, N valid (step, row) pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """The layout of the arrays of one sequence batch."""

    batch_first: bool = False
    batch_sizes: Tensor | None = None

    def steps(self, a: Tensor) -> list[Tensor]:
        """One (active rows, G, W) array for each step."""
        if self.batch_sizes is not None:
            return list(a.split(self.batch_sizes.tolist()))
        return list(a.unbind(1 if self.batch_first else 0))

    def join(self, steps: list[Tensor]) -> Tensor:
        """The inverse of :meth:`steps`."""
        if self.batch_sizes is not None:
            return torch.cat(steps)
        return torch.stack(steps, 1 if self.batch_first else 0)

    def steps_in(self, a: Tensor) -> int:
        """The number of steps, T."""
        return a.size(1 if self.batch_first else 0) if self.batch_sizes is None else self.batch_sizes.numel()


class Segments:
    """The stretches that a batch's rows are cut into, as rows of a packed batch of their own.

    A row ends at its length, and is cut before each step where it is reset. Nothing passes from one stretch to the
    next, so that they are rows like any others: all run at once, and only steps that there are.

    Args:
        steps, rows: T and B of the padded batch; batch_first: how it lies.
        lengths: (B,) int64 on the CPU, 0 to T; None: all T.
        reset: (T, B) bool on the CPU, True where a stretch begins; None: nowhere but at the start.

    Attributes:
        batch_sizes: (T',) int64, as in :class:`torch.nn.utils.rnn.PackedSequence`.
        places: (N,) int64, where each packed step lies among the padded T B.
        row: (S,) int64, of which row each stretch is, the longest stretch first.
        opening, closing: (B,) int64, each row's first and last stretch; of a row without steps any one.
        is_opening, is_closing: (S,) bool, whether a stretch is that; one that is reset at step 0 does not open.
        is_empty: (B,) bool, rows without steps.
    """

    def __init__(
        self, steps: int, rows: int, batch_first: bool, lengths: Tensor | None, reset: Tensor | None
    ) -> None:
        T, B = steps, rows
        lengths = torch.full((B,), T) if lengths is None else lengths
        self.is_empty = lengths == 0
        if reset is None:
            row = torch.arange(B)[~self.is_empty]
            start, ends = torch.zeros_like(row), lengths[row]
        else:
            begins = reset.t() & (torch.arange(T) < lengths.unsqueeze(1))
            begins[:, 0] = ~self.is_empty
            row, start = begins.nonzero().unbind(1)
            following = torch.cat([start[1:], start.new_zeros(1)])
            same_row = torch.cat([row[1:] == row[:-1], row.new_zeros(1, dtype=torch.bool)])
            ends = torch.where(same_row, following, lengths[row])
        length, order = (ends - start).sort(descending=True, stable=True)
        self.row, start = row[order], start[order]
        longest = int(length[0]) if len(length) > 0 else 0
        # Active rows of step t are those that are longer than t: from how many end where.
        ending = torch.bincount(length, minlength=longest + 1)
        self.batch_sizes = len(length) - ending.cumsum(0)[:longest]
        step = torch.arange(longest).repeat_interleave(self.batch_sizes)
        first = torch.cat([self.batch_sizes.new_zeros(1), self.batch_sizes.cumsum(0)[:-1]])
        stretch = torch.arange(len(step)) - first[step]
        step = step + start[stretch]
        self.places = self.row[stretch] * T + step if batch_first else step * B + self.row[stretch]
        is_first = start == 0
        is_last = start + length == lengths[self.row]
        stretches = torch.arange(len(length))
        self.opening = torch.zeros(B, dtype=torch.int64).index_copy(0, self.row[is_first], stretches[is_first])
        self.closing = torch.zeros(B, dtype=torch.int64).index_copy(0, self.row[is_last], stretches[is_last])
        self.is_opening = is_first if reset is None else is_first & ~reset[0][self.row]
        self.is_closing = is_last


def is_reversed(group: int, direction: int) -> bool:
    """Whether a group runs against time: direction 1 all, 2 the odd ones."""
    return direction == 1 or (direction == 2 and group % 2 == 1)
