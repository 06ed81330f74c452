"""The recurrence's two operators, without the layer around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from rnnfast.reference import GATES

ops = torch.ops.rnnfast


class Problem(NamedTuple):
    T: int
    B: int
    H: int
    G: int
    direction: str  # "forward" or "bptt"
    cell: str = "elman_tanh"

    @property
    def id(self) -> str:
        groups = f"_G{self.G}" if self.G > 1 else ""
        cell = "" if self.cell == "elman_tanh" else f"{self.cell}_"
        return f"{cell}T{self.T}_B{self.B}_H{self.H}{groups}_{self.direction}"

    @property
    def products(self) -> int:
        """Steps with a matrix product: forward starts from an initial state, BPTT has nothing to pass back."""
        return self.T if self.direction == "forward" else self.T - 1

    def call(self) -> Callable[[], object]:
        """The operator on random operands of the size that a layer's have."""
        T, B, H, G, _, cell = self
        K = GATES[cell] * H
        w_hh = (2 * torch.rand(G, K, H) - 1) / H**0.5
        options = (cell, 2 if G == 2 else 0)
        gates, bias, h0 = torch.randn(T, B, G, K), torch.randn(G, K) / H**0.5, torch.rand(G, B, H)
        if self.direction == "forward":
            return lambda: ops.recurrence(gates, None, w_hh, None, None, bias, h0, None, *options)
        y, *results = ops.recurrence(gates, None, w_hh, None, None, bias, h0, None, *options, saves=True)
        given = (torch.randn_like(y), None, None, None, None, None, w_hh, *[None] * 5, y)
        saved = results[2:] if cell == "lstm" else results[1:]
        return lambda: ops.recurrence_bptt(*given, saved, *options, False, None, 1)


def problems(sizes: list[tuple[int, int, int, int]], cells: tuple[str, ...] = ("elman_tanh",)) -> list[Problem]:
    directions = ("forward", "bptt")
    return [Problem(*size, direction, cell) for cell in cells for size in sizes for direction in directions]


def last_plan() -> str:
    """What the latest operator ran by: schedule, workers, crew, weights."""
    return ops.last_plan().partition(" tile=")[0]
