"""Something to learn from where there are no recordings: plucked strings, and an amplifier driven too hard."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..._program import needs

LOWEST = 82.4  # Hz: the lowest string of a guitar
NOTES_A_SECOND = 3.0


def plucks(seconds: float, rate: int, generator: torch.Generator) -> Tensor:
    """Strings plucked at random, (T,): noise that goes round in a loop and loses its highs.

    (Karplus and Strong, "Digital synthesis of plucked-string and drum timbres", Computer Music Journal 7, 1983.)

    Args:
        seconds: how long; rate: samples in one; generator: of pitches, times and noise.
    """
    lfilter = needs("scipy.signal", "recipes").lfilter
    total = max(1, round(seconds * rate))
    result = torch.zeros(total)
    for _ in range(max(1, round(NOTES_A_SECOND * seconds))):
        start, semitones, strength, ring = torch.rand(4, generator=generator).tolist()
        begin = int(start * total)
        length = min(total - begin, rate)
        period = round(rate / (LOWEST * 2 ** (int(semitones * 36) / 12)))
        burst = torch.zeros(length)
        burst[:period] = torch.rand(min(period, length), generator=generator) * 2 - 1
        kept = 0.97 + 0.029 * ring
        loop = [1.0] + [0.0] * (period - 1) + [-kept / 2, -kept / 2]
        result[begin : begin + length] += (0.1 + 0.4 * strength) * _filtered(lfilter, [1.0], loop, burst)
    return result.clamp(-1, 1)


def overdrive(dry: Tensor, rate: int) -> Tensor:
    """What an amplifier makes of samples (T,): bass cut off, clipped, more on one side, and treble cut off.

    Args:
        rate: samples in a second.
    """
    lfilter = needs("scipy.signal", "recipes").lfilter
    high, low = [math.exp(-2 * math.pi * frequency / rate) for frequency in (120.0, 3500.0)]
    clipped = torch.tanh(10 * _filtered(lfilter, [1.0, -1.0], [1.0, -high], dry) + 0.4)
    return 0.7 * _filtered(lfilter, [1 - low], [1.0, -low], clipped - math.tanh(0.4))


def best_linear(dry: Tensor, wet: Tensor, taps: int) -> Tensor:
    """The finite impulse response (taps,) that brings samples (T,) nearest to others in the mean square."""
    x, y = dry.double(), wet.double()
    own = [float(x[k:] @ x[: len(x) - k]) for k in range(taps)]
    other = [float(y[k:] @ x[: len(x) - k]) for k in range(taps)]
    own[0] *= 1 + 1e-9
    return torch.from_numpy(needs("scipy.linalg", "recipes").solve_toeplitz(own, other)).float()


def convolved(signal: Tensor, response: Tensor) -> Tensor:
    """A signal (T,) through a finite impulse response."""
    return _filtered(needs("scipy.signal", "recipes").lfilter, response.tolist(), [1.0], signal)


def _filtered(lfilter: Any, numerator: list[float], denominator: list[float], signal: Tensor) -> Tensor:
    return torch.from_numpy(lfilter(numerator, denominator, signal.double().numpy())).float()


__all__ = ["best_linear", "convolved", "overdrive", "plucks"]
