"""Measures by how much training makes a process grow at its peak.

python benchmarks/memory.py rnnfast LSTM 100 32 128   # PACKAGE KIND T B H; prints bytes, as JSON

A process measures one layer, for what an earlier one has freed may be used again. Before that, a step of a tiny
layer loads the libraries and starts the threads. The layer, its input and the output's gradient are there before
the first step.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from shapes import Pair, training

TINY = (2, 2, 4)
# The allocator finds other places in each step and keeps some: several show how far a process grows.
LATER_STEPS = 6
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(name: str) -> int:
    """Bytes in memory: "VmRSS" now, "VmHWM" at most since the process or forget_peak() last."""
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text())[1])


def forget_peak() -> None:
    CLEAR.write_text("5")


def step_of(package: str, kind: str, T: int, B: int, H: int) -> Callable[[], None]:
    layer = getattr(importlib.import_module(package), kind)(H, H)
    pair = Pair(layer, layer, torch.randn(T, B, H), torch.randn(T, B, H))
    return lambda: training(layer, pair)


def growth(package: str, kind: str, *shape: int) -> dict[str, int]:
    """Peaks of the first step and of the later ones, both over what was resident before the first."""
    step_of(package, kind, *TINY)()
    step = step_of(package, kind, *shape)
    before = resident("VmRSS")

    def peak(steps: int) -> int:
        forget_peak()
        for _ in range(steps):
            step()
        return resident("VmHWM") - before

    return {"first step": peak(1), "later steps": peak(LATER_STEPS)}


if __name__ == "__main__":
    package, kind, *shape = sys.argv[1:]
    print(json.dumps(growth(package, kind, *map(int, shape))))
