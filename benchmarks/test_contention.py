"""Where there are fewer processors than threads: more threads asked for, or another process busy."""

import os
import statistics
import subprocess
import sys

import pytest
import torch
from shapes import SHAPES, Pair, forward, shape_id, training

SOME_SHAPES = [(50, 32, 32), (100, 1, 256), (100, 32, 128), (100, 64, 256)]
some_shapes = pytest.mark.parametrize("shape", SOME_SHAPES, ids=shape_id)
all_shapes = pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
# It ends with this process, should that not get to end it.
SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


@pytest.fixture
def threads():
    """threads(n) sets torch's threads, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def busy_process():
    process = subprocess.Popen([sys.executable, "-c", SPIN])
    yield
    process.kill()
    process.wait()


@some_shapes
def test_twice_the_threads_forward(in_turn, threads, shape):
    threads(2 * os.cpu_count())
    in_turn(*Pair.of("RNN", *shape).calls(forward))


@some_shapes
def test_twice_the_threads_training(in_turn, threads, shape):
    threads(2 * os.cpu_count())
    in_turn(*Pair.of("RNN", *shape).calls(training))


def p95(times):
    return statistics.quantiles(times, n=20, method="inclusive")[-1]


def beside_another(benchmark, in_turn, block, threads, shape, function):
    """In turn with torch.nn; then how bad the slow rounds are, beside the slow ones of one thread alone."""
    ours, peers = Pair.of("RNN", *shape).calls(function)
    times = in_turn(ours, peers, share=0.5)
    if not times:
        return
    # In a block of its own: libgomp ends and starts threads whenever their number changes, which in turn
    # would cost every round.
    threads(1)
    one_worker = block(ours, share=0.25)
    benchmark.extra_info["p95_over_one_worker"] = p95(times["rnnfast"]) / p95(one_worker)


@all_shapes
def test_beside_another_forward(benchmark, in_turn, block, threads, busy_process, shape):
    beside_another(benchmark, in_turn, block, threads, shape, forward)


@all_shapes
def test_beside_another_training(benchmark, in_turn, block, threads, busy_process, shape):
    beside_another(benchmark, in_turn, block, threads, shape, training)
