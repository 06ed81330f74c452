"""Fits the cycles that plans for GPUs are estimated from (csrc/cuda/plan_cuda.cpp) to what tune_cuda.py measured.

    python benchmarks/fit_cuda.py tune.json

A step's time is taken for a sum of kinds of work, each so many times its cycles, and of the products of all steps,
which are timed with it. Cycles are those of the least squares of relative errors, positive, and near those of now
as far as the measurements do not tell. Prints them, how far estimates are off, and how much longer than the best
plan measured the one takes that would be chosen. Needs SciPy.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls
from shapes import CELLS

import rnnfast
from rnnfast import _C
from rnnfast.modules import wavefront
from rnnfast.reference import GATES

DTYPES = {"bf16": ("bfloat16", False), "fp32": ("float32", False), "tf32": ("float32", True)}
MEGAHERTZ = 1700
PRODUCTS = "million multiply-adds of all steps, "  # and of which dtype; in us
STEADY = 0.01  # how much a relative change of a kind's cycles weighs beside a relative error of one row


def plan(row, T, limits, pass_):
    """What was measured, or for the row of the planner's choice what it would be now."""
    dtype, tf32 = DTYPES[row["dtype"]]
    wish = {} if row["wanted"] == "plan" else row["wish"]
    known = rnnfast.CudaLimits(**{**limits, "capability": tuple(limits["capability"])})
    options = dict(**known.as_arguments(), pass_=pass_, tf32=tf32, **wish)
    return _C.plan_cuda(CELLS[row["kind"]], T, row["B"], row["H"], 1, dtype, **options)


def work(row, T, limits):
    """How much there is of each kind of work in a measured row; None where a pass had no plan of one launch."""
    total = {}
    for pass_ in ("forward", "bptt")[: 1 + (row["what"] == "training")]:
        found = plan(row, T, limits, pass_)
        if found.schedule == "stepwise":
            return None
        for name, count in found.work.items():
            total[name] = total.get(name, 0.0) + count
    # W_ih x; backwards for x, W_ih and W_hh.
    products = row["B"] * GATES[CELLS[row["kind"]]] * row["H"] ** 2 * (4 if row["what"] == "training" else 1)
    return total | {PRODUCTS + row["dtype"]: products / 1e6}


def fit(rows, works):
    """Microseconds of each kind of work: as estimated now, and fitted."""
    now = {name: cycles / MEGAHERTZ for name, cycles in _C.cuda_work_cycles().items()}
    for name, (dtype, tf32) in DTYPES.items():
        now[PRODUCTS + name] = 1e6 / wavefront.rate_of_products(getattr(torch, dtype), tf32)
    names = [name for name in now if any(name in w for w in works)]
    times = np.array([row["us"] for row in rows])
    counts = np.array([[w.get(name, 0.0) * now[name] for name in names] for w in works])  # in units of now
    system = np.vstack([counts / times[:, None], STEADY * math.sqrt(len(rows)) * np.eye(len(names))])
    right = np.concatenate([np.ones(len(rows)), np.full(len(names), STEADY * math.sqrt(len(rows)))])
    factors, _ = nnls(system, right)
    return now, now | {name: now[name] * f for name, f in zip(names, factors, strict=True)}


def estimate(work, us):
    return sum(count * us[name] for name, count in work.items())


def root_mean_square(rows, works, us):
    return math.sqrt(np.mean([(estimate(w, us) / r["us"] - 1) ** 2 for r, w in zip(rows, works, strict=True)]))


def slower_than_the_best(rows, works, us):
    """For each layer and kind of call: the time of what is estimated to be fastest, over the least one."""
    cases = {}
    for row, w in zip(rows, works, strict=True):
        key = " ".join(str(row[name]) for name in ("kind", "dtype", "B", "H", "what"))
        cases.setdefault(key, []).append((estimate(w, us), row["us"]))
    return {key: min(found)[1] / min(us for _, us in found) - 1 for key, found in cases.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    record = json.loads(parser.parse_args().record.read_text())
    measured = [row for row in record["rows"] if row["right"]]
    pairs = [(row, work(row, record["T"], record["limits"])) for row in measured]
    pairs = [(row, w) for row, w in pairs if w is not None]
    if not pairs:
        raise SystemExit("record: expected rows of plans of one launch with right results, found none")
    rows, works = map(list, zip(*pairs, strict=True))
    now, fitted = fit(rows, works)
    print(f"{record['device']}, {len(rows)} rows of plans of one launch; cycles, or us:")
    for name in now:
        times = 1 if name.startswith(PRODUCTS) else MEGAHERTZ
        seen = sum(name in w for w in works)
        print(f"  {name:45} now {now[name] * times:9.4f}  fitted {fitted[name] * times:9.4f}  in {seen} rows")
    for title, us in (("now", now), ("fitted", fitted)):
        slower = slower_than_the_best(rows, works, us)
        worst = max(slower, key=slower.get)
        print(
            f"{title}: {root_mean_square(rows, works, us):.1%} off, root mean square; choices "
            f"{np.mean([*slower.values()]):.1%} slower than the best, {slower[worst]:.1%} at worst ({worst}), "
            f"{sum(s > 0.1 for s in slower.values())} of {len(slower)} more than 10 %"
        )


if __name__ == "__main__":
    main()
