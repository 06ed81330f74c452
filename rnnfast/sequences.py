"""How the rows of a sequence batch lie in memory.

Arrays are padded, (T, B, G, W) or with ``batch_first`` (B, T, G, W), or packed as in
:class:`torch.nn.utils.rnn.PackedSequence`, (N, G, W), with ``batch_sizes`` giving the active rows of each step.
T steps, B rows of the batch, G groups, N valid (step, row) pairs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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


class Stretches(NamedTuple):
    """What a batch's rows are cut into, as rows of a packed batch of their own: see ``csrc/ops.cpp``.

    A row ends at its length, and is cut before each step where it is reset. Nothing passes from one stretch to the
    next, so that they are rows like any others: all run at once, and only steps that there are.
    """

    batch_sizes: Tensor
    index: Tensor
    inverse: Tensor
    table: Tensor
    begins: Tensor
    ends: Tensor
    empty: Tensor

    @property
    def row(self) -> Tensor:
        """Of which row each is."""
        return self.table[0]


def packing(table: Tensor, steps: int, rows: int, batch_first: bool) -> tuple[Tensor, Tensor, Tensor]:
    """batch_sizes, index and inverse of :class:`Stretches`, from their table."""
    row, start, length = table
    longest = int(length[0]) if len(length) > 0 else 0
    # Active rows of step t are those that are longer than t: from how many end where.
    ending = torch.bincount(length, minlength=longest + 1)
    batch_sizes = len(length) - ending.cumsum(0)[:longest]
    step = torch.arange(longest).repeat_interleave(batch_sizes)
    first = torch.cat([batch_sizes.new_zeros(1), batch_sizes.cumsum(0)[:-1]])
    stretch = torch.arange(len(step)) - first[step]
    step = step + start[stretch]
    index = row[stretch] * steps + step if batch_first else step * rows + row[stretch]
    inverse = torch.full((steps * rows,), -1).index_copy(0, index, torch.arange(len(index)))
    return batch_sizes, index, inverse


def stretches(lengths: Tensor | None, reset: Tensor | None, steps: int, rows: int, batch_first: bool) -> Stretches:
    """The operator of the same name, in plain torch."""
    T, B = steps, rows
    lengths = torch.full((B,), T) if lengths is None else lengths
    empty = lengths == 0
    if reset is None:
        row = torch.arange(B)[~empty]
        start, end = torch.zeros_like(row), lengths[row]
    else:
        starts = reset.t() & (torch.arange(T) < lengths.unsqueeze(1))
        starts[:, 0] = ~empty
        row, start = starts.nonzero().unbind(1)
        following = torch.cat([start[1:], start.new_zeros(1)])
        same_row = torch.cat([row[1:] == row[:-1], row.new_zeros(1, dtype=torch.bool)])
        end = torch.where(same_row, following, lengths[row])
    length, order = (end - start).sort(descending=True, stable=True)
    row, start = row[order], start[order]
    table = torch.stack([row, start, length])
    batch_sizes, index, inverse = packing(table, T, B, batch_first)
    is_first, is_last, each = start == 0, start + length == lengths[row], torch.arange(len(length))
    ends = [torch.zeros(B, dtype=torch.int64).index_copy(0, row[i], each[i]) for i in (is_last, is_first)]
    opens = is_first if reset is None else is_first & ~reset[0][row]
    return Stretches(batch_sizes, index, inverse, table, torch.stack([opens, is_last]), torch.stack(ends), empty)


_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def are_lengths(lengths: Any, batch: int) -> None:
    """Raises unless these are integers, (B,), in a tensor."""
    if not isinstance(lengths, Tensor):
        raise TypeError(f"lengths: got {type(lengths).__name__}, expected a tensor")
    if lengths.shape != (batch,) or lengths.dtype not in _WHOLE:
        raise ValueError(
            f"lengths: got {lengths.dtype} of shape {tuple(lengths.shape)}, expected torch.int64 of shape "
            f"({batch},)"
        )


def checked_lengths(lengths: Any, batch: int, steps: int, least: int = 0) -> Tensor:
    """`lengths`, (B,), of `least` to T, on the CPU, once they are found to fit."""
    are_lengths(lengths, batch)
    lengths = lengths.detach().to("cpu", torch.int64)
    wrong = ((lengths < least) | (lengths > steps)).nonzero()
    if len(wrong) > 0:
        row = int(wrong[0])
        raise ValueError(f"lengths: got {int(lengths[row])} in row {row}, expected {least} to {steps}")
    return lengths


def is_reversed(group: int, direction: int) -> bool:
    """Whether a group runs against time: direction 1 all, 2 the odd ones."""
    return direction == 1 or (direction == 2 and group % 2 == 1)
