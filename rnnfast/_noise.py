"""Noise on states, as ``csrc/philox.h`` draws it: in plain torch, the same bits.

Random words are functions of a key and of a place (Philox4x32-10: Salmon, Moraes, Dror and Shaw, "Parallel
random numbers: as easy as 1, 2, 3", SC 2011), so that they need not be kept for the backward pass, and do not
depend on how the work is shared out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_LOW = 0xFFFFFFFF
_ALL_STEPS = 0xFFFFFFFF  # where what is drawn holds for all of them

Rates = Sequence[float]  # probabilities: of dropping a candidate, of keeping h, of keeping c


def draw_seed(device: torch.device) -> Tensor:
    """A seed as operators take it: a key by torch's generator, and that all is counted from 0."""
    return F.pad(torch.randint(-(1 << 63), (1 << 63) - 1, (1,), dtype=torch.int64, device=device), (0, 1))


def beginning_at(seed: Tensor | None, step: int, group: int) -> Tensor | None:
    """The same noise for a part of the steps and groups that begins with these."""
    if seed is None or step == group == 0:
        return seed
    return seed + torch.tensor([0, step + (group << 32)], device=seed.device)


def philox(key: Tensor, counter: Sequence[Any]) -> list[Tensor]:
    """Four words of 32 bits, as int64, for counters that broadcast."""
    a, b, c, d = counter
    k0, k1 = key & _LOW, (key >> 32) & _LOW
    for _ in range(10):
        # The lower 64 bits of a product are right though it overflows.
        first, second = a * 0xD2511F53, c * 0xCD9E8D57
        a, c = ((second >> 32) & _LOW) ^ b ^ k0, ((first >> 32) & _LOW) ^ d ^ k1
        b, d = second & _LOW, first & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return [a, b, c, d]


class Noise:
    """What is random in one group of a recurrence, for rows of the batch and units."""

    def __init__(self, rates: Rates, seed: Tensor | None, group: int) -> None:
        self.dropout, *self.zoneout = rates
        self.seed, self.group = seed, group

    def _happens(self, word: Tensor, probability: float) -> Tensor:
        return (word >> 8) < math.ceil(probability * (1 << 24))

    def _words(self, step: Any, rows: int, units: int) -> list[Tensor]:
        assert self.seed is not None
        unit, row = [torch.arange(n, device=self.seed.device) for n in (units, rows)]
        group = (self.group + (self.seed[1] >> 32)) & _LOW
        return philox(self.seed[0], (unit, row.unsqueeze(1), step, group))

    def factor(self, rows: int, units: int, like: Tensor) -> Tensor | None:
        """What candidates are multiplied with at all steps, (rows, units); None: nothing."""
        if self.seed is None or self.dropout == 0:
            return None
        word = self._words(_ALL_STEPS, rows, units)[0]
        return (~self._happens(word, self.dropout)).to(like.dtype) / (1 - self.dropout)

    def zoned(self, state: int, candidate: Tensor, before: Tensor, step: int) -> Tensor:
        """A state, 0 for h and 1 for c, of which a share stays what it was, (rows, units)."""
        p = self.zoneout[state]
        if p == 0:
            return candidate
        if self.seed is None:
            return candidate + p * (before - candidate)
        word = self._words((step + self.seed[1]) & _LOW, *candidate.shape)[state]
        kept = self._happens(word, p).to(candidate.dtype)
        return candidate + kept * (before - candidate)
