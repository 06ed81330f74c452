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
    """The layout of the arrays of one sequence batch, and the parts of them that BPTT pairs up.

    Each part keeps (group, width) as its last axes and flattens steps and rows into the first.
    """

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

    def first(self, a: Tensor) -> Tensor:
        """Each row's first step, (B, G, W)."""
        if self.batch_sizes is not None:
            return a[: int(self.batch_sizes[0])]
        return a.select(1 if self.batch_first else 0, 0)

    def last(self, a: Tensor) -> Tensor:
        """Each row's last step, (B, G, W)."""
        if self.batch_sizes is not None:
            sizes = self.batch_sizes
            # The step whose rows end with row b is the last one with more than b rows.
            rows = torch.arange(int(sizes[0]))
            lengths = (sizes.unsqueeze(0) > rows.unsqueeze(1)).sum(1)
            offsets = sizes.cumsum(0) - sizes
            return a.index_select(0, (offsets[lengths - 1] + rows).to(a.device))
        return a.select(1 if self.batch_first else 0, -1)

    def later(self, a: Tensor) -> Tensor:
        """Every step that has one before it, (N - B, G, W)."""
        if self.batch_sizes is not None:
            return a[int(self.batch_sizes[0]) :]
        time = 1 if self.batch_first else 0
        return a.narrow(time, 1, a.size(time) - 1).reshape(-1, *a.shape[2:])

    def earlier(self, a: Tensor) -> Tensor:
        """The step before each of :meth:`later`, in the same order."""
        if self.batch_sizes is not None:
            sizes = self.batch_sizes
            back = torch.repeat_interleave(sizes[:-1], sizes[1:])
            index = torch.arange(int(sizes[0]), int(sizes.sum())) - back
            return a.index_select(0, index.to(a.device))
        time = 1 if self.batch_first else 0
        return a.narrow(time, 0, a.size(time) - 1).reshape(-1, *a.shape[2:])


def is_reversed(group: int, direction: int) -> bool:
    """Whether a group runs against time: direction 1 all, 2 the odd ones."""
    return direction == 1 or (direction == 2 and group % 2 == 1)
