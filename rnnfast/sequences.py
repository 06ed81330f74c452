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


def is_reversed(group: int, direction: int) -> bool:
    """Whether a group runs against time: direction 1 all, 2 the odd ones."""
    return direction == 1 or (direction == 2 and group % 2 == 1)
