"""Measures what the machine can do at most, and says what time that leaves a recurrence at least.

python benchmarks/roofline.py   # prints the peaks
"""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).with_suffix(".cpp")
KB = 1024
# Another process may be busy for a while, so the best of sweeps that take a few seconds together.
SWEEPS = 8
WORKING_SETS = [size * KB for size in (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 16384)]  # for each thread


@functools.cache
def compiled() -> ctypes.CDLL:
    """roofline.cpp for this machine; RuntimeError with the compiler's words if it fails."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "roofline.so"
        options = ["-O2", "-march=native", "-fopenmp", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
        try:
            subprocess.run([*compiler, *options], check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise RuntimeError(f"roofline.cpp: {error}\n{getattr(error, 'stderr', '')}") from error
        loaded = ctypes.CDLL(str(library))
    loaded.fma_peak.restype = loaded.read_bandwidth.restype = ctypes.c_double
    loaded.fma_peak.argtypes = [ctypes.c_int]
    loaded.read_bandwidth.argtypes = [ctypes.c_int, ctypes.c_size_t]
    loaded.multiply_adds.argtypes = [ctypes.c_int, ctypes.c_long]
    loaded.reads.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t]
    loaded.multiply_adds.restype = loaded.reads.restype = None
    return loaded


def peaks() -> dict[str, Any]:
    """flop/s by threads, and bytes/s by threads and working set of each thread; all threads together."""
    library = compiled()
    counts = sorted({1, torch.get_num_threads()})
    flops = dict.fromkeys(map(str, counts), 0.0)  # keys are text, as they are when read from JSON
    rates = {str(threads): dict.fromkeys(map(str, WORKING_SETS), 0.0) for threads in counts}
    for threads in counts * SWEEPS:
        key = str(threads)
        flops[key] = max(flops[key], library.fma_peak(threads))
        for size, rate in rates[key].items():
            rates[key][size] = max(rate, library.read_bandwidth(threads, int(size)))
    return {"flop/s": flops, "bytes/s": rates}


def bandwidth(peaks: dict[str, Any], threads: int, bytes: float) -> float:
    """bytes/s of one thread while all read; of the measured working sets, the nearest that holds `bytes`."""
    measured = {int(size): rate for size, rate in peaks["bytes/s"][str(threads)].items()}
    size = min((size for size in measured if size >= bytes), default=max(measured))
    return measured[size] / threads


def floor(
    peaks: dict[str, Any], threads: int, steps: int, flop: float, bytes: float
) -> tuple[str, Callable[[], None]]:
    """What bounds steps of so many operations, each worker reading so many bytes in each, and a call that does
    that and nothing else: it takes the least time that they can take.

    The working set is W_hh alone, read once a step: a bound from below, which a kernel that goes over W_hh
    once for every few rows of the batch does not reach.
    """
    library = compiled()
    if flop / peaks["flop/s"][str(threads)] >= bytes / bandwidth(peaks, threads, bytes):
        rounds = max(1, round(steps * flop / threads / (12 * library.lanes() * 2)))
        return "multiply-adds", lambda: library.multiply_adds(threads, rounds)
    size = max(1, round(bytes / 4096)) * 4096
    return "reading W_hh", lambda: library.reads(threads, size, steps)


def in_words(peaks: dict[str, Any]) -> list[str]:
    return [
        f"{threads} thread(s): {flops / 1e9:.0f} GF/s; GB/s of all together, by KB that each reads: "
        + ", ".join(f"{int(b) // KB}: {r / 1e9:.0f}" for b, r in peaks["bytes/s"][threads].items())
        for threads, flops in peaks["flop/s"].items()
    ]


if __name__ == "__main__":
    print("\n".join(in_words(peaks())))
