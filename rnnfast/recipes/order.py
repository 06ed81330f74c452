"""The order in which rows of a data set are trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from .training import generator

# Of as many batches at a time the rows are sorted by length: enough that lengths in a batch are alike, few enough
# that other rows meet in it each time.
POOL = 64


class Order:
    """Batches of rows, in another random order each epoch; a step's are found without going through those before.

    Rows that are left over at the end of an epoch are left out of it.

    Args:
        rows: how many there are; batch_size: of them in a batch; seed: of the order.
        lengths: (rows,), to put rows of like lengths into one batch, so that there is little padding.

    Example:
        >>> order = Order(10, 4, seed=0)
        >>> order.steps_per_epoch, order[0].shape
        (2, torch.Size([4]))
    """

    def __init__(self, rows: int, batch_size: int, seed: int, lengths: Tensor | None = None) -> None:
        self.rows, self.batch_size, self.seed, self.lengths = rows, min(batch_size, rows), seed, lengths
        self._epoch, self._batches = -1, torch.empty(0)

    @property
    def steps_per_epoch(self) -> int:
        return self.rows // self.batch_size

    def __getitem__(self, step: int) -> Tensor:
        """The rows of a step, (batch_size,)."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._shuffled(epoch)
        return self._batches[batch]

    def _shuffled(self, epoch: int) -> Tensor:
        random = generator(self.seed, epoch)
        used = self.steps_per_epoch * self.batch_size
        order = torch.randperm(self.rows, generator=random)[:used]
        if self.lengths is not None:
            pools = order.split(POOL * self.batch_size)
            order = torch.cat([pool[self.lengths[pool].argsort(stable=True)] for pool in pools])
        batches = order.view(-1, self.batch_size)
        return batches[torch.randperm(len(batches), generator=random)]


__all__ = ["Order"]
