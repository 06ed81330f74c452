"""The recurrence's two operators, without the layer around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

ops = torch.ops.rnnfast


class Problem(NamedTuple):
    T: int
    B: int
    H: int
    G: int
    direction: str  # "forward" or "bptt"

    @property
    def id(self) -> str:
        groups = f"_G{self.G}" if self.G > 1 else ""
        return f"T{self.T}_B{self.B}_H{self.H}{groups}_{self.direction}"

    @property
    def products(self) -> int:
        """Steps with a matrix product: forward starts from an initial state, BPTT has nothing to pass back."""
        return self.T if self.direction == "forward" else self.T - 1

    def call(self) -> Callable[[], object]:
        """The operator on random operands of the size that a layer's have."""
        T, B, H, G, _ = self
        w_hh = (2 * torch.rand(G, H, H) - 1) / H**0.5
        options = ("tanh", 2 if G == 2 else 0)
        if self.direction == "forward":
            gates, bias, h0 = torch.randn(T, B, G, H), torch.randn(G, H) / H**0.5, torch.rand(G, B, H)
            return lambda: ops.elman(gates, w_hh, bias, h0, *options)
        dy, y = torch.randn(T, B, G, H), 2 * torch.rand(T, B, G, H) - 1
        return lambda: ops.elman_bptt(dy, None, y, w_hh, *options)


def problems(sizes: list[tuple[int, int, int, int]]) -> list[Problem]:
    return [Problem(*size, direction) for size in sizes for direction in ("forward", "bptt")]


def last_plan() -> str:
    """What the latest operator ran by: schedule, workers, crew, weights."""
    return ops.last_plan().partition(" tile=")[0]
