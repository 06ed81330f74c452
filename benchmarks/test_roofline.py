"""The raw operators against what the machine can do at most, measured in turn with them."""

import re
import statistics

import pytest
import torch
from raw import last_plan, problems
from roofline import floor
from shapes import SHAPES

from rnnfast.reference import GATES

# A single step is not bound by the machine but by the overhead of the call.
PROBLEMS = problems(
    [(*shape, 1) for shape in [*SHAPES, (100, 1, 512)] if shape[0] > 1], ("elman_tanh", "lstm", "gru")
)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.id)
def test_roofline(benchmark, in_turn, peaks, problem):
    call = problem.call()
    call()
    plan = last_plan()
    # The workers of a crew share W_hh; those of other crews read all of it as well.
    crew, workers = (int(re.search(rf"{name}=(\d+)", plan)[1]) for name in ("crew", "workers"))
    size = GATES[problem.cell] * problem.H**2
    flop, read = 2 * problem.B * size, size * 4 / crew
    bound, least = floor(peaks, torch.get_num_threads(), problem.products, flop, read)
    times = in_turn(call, {"floor": least})
    if not times:
        return
    seconds = statistics.median(times["rnnfast"])
    benchmark.extra_info.update(
        {
            "plan": plan,
            "bound by": bound,
            "KB of W_hh": read / 1024,
            "GF/s": problem.products * flop / seconds / 1e9,
            "GB/s": problem.products * read * workers / seconds / 1e9,
        }
    )
