"""Peak memory of a training step, each layer in a process of its own (memory.py)."""

import json
import os
import subprocess
import sys

import memory
import pytest
import torch
from shapes import KINDS, shape_id

SHAPES = [(100, 32, 128), (100, 64, 512), (512, 16, 768)]
MB = 1e6
pytestmark = pytest.mark.skipif(
    not os.access(memory.CLEAR, os.W_OK), reason=f"{memory.CLEAR} cannot be written: peaks cannot be measured"
)


def growth(package, kind, shape):
    """memory.growth in a fresh process, in MB."""
    command = [sys.executable, memory.__file__, package, kind, *map(str, shape)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return {step: size / MB for step, size in json.loads(done.stdout).items()}


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
@pytest.mark.parametrize("kind", KINDS)
def test_memory(benchmark, notes, kind, shape):
    def both():
        return growth("rnnfast", kind, shape), growth("torch.nn", kind, shape)

    ours, peer = benchmark.pedantic(both, rounds=1)  # so that it is in the record; its time says nothing
    for step, size in ours.items():
        figures = {
            f"{step}, MB": size,
            f"torch.nn {step}, MB": peer[step],
            f"{step} / torch.nn": size / peer[step],
        }
        benchmark.extra_info.update(figures)
    found = ", ".join(f"{name} {value:.3g}" for name, value in benchmark.extra_info.items())
    notes.append(f"memory {kind} {shape_id(shape)}: {found}")
