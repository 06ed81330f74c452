"""The planner's choice against every plan it could have chosen; what is timed are the raw operators."""

import itertools
import statistics

import pytest
import torch
from raw import last_plan, ops, problems

PROBLEMS = problems(
    [
        (1, 1, 128, 1),
        (12, 64, 4, 1),
        (100, 1, 64, 1),
        (50, 32, 32, 1),
        (20, 1, 512, 2),
        (100, 1, 256, 1),
        (8, 32, 512, 1),
        (100, 4, 256, 1),
        (1000, 8, 128, 1),
        (100, 1, 1024, 1),
        (100, 64, 256, 1),
    ],
    ("elman_tanh", "lstm", "gru"),
)
WISHES = list(
    itertools.product(("batch_split", "unit_split"), ("packed", "in_place"), sorted({1, torch.get_num_threads()}))
)
NO_WISH = (None, None, None)


@pytest.fixture(autouse=True)
def no_wish_afterwards():
    yield
    ops.wish_plan(*NO_WISH)


def wishing(call, *wishes):
    """A call under the last of two wishes.

    Wishing costs up to a few us, so every call, of the planner's choice too, wishes for a plan and for none.
    """

    def wished():
        for wish in wishes:
            ops.wish_plan(*wish)
        call()

    return wished


def forced_plans(call):
    """Calls by plan: wishes that come down to the same plan stand here once."""
    plans = {}
    for wish in WISHES:
        wished = wishing(call, NO_WISH, wish)
        wished()
        plans.setdefault(last_plan(), wished)
    return plans


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.id)
def test_plans(benchmark, in_turn, problem):
    call = problem.call()
    plans, planned = forced_plans(call), wishing(call, WISHES[0], NO_WISH)
    planned()
    chosen = last_plan()
    times = in_turn(planned, plans)
    if not times:
        return
    info = benchmark.extra_info
    # No peers of ours, and others in each row: kept, but not as columns of a table.
    forced = info["forced"] = info.pop("peers")
    best = min(forced, key=lambda plan: forced[plan]["median"])
    info["chosen"], info["best forced"] = chosen, best
    info["chosen / best"] = statistics.median(times["rnnfast"]) / forced[best]["median"]
