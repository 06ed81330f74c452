"""What rnnfast's layers gain in real training: applications with them and with torch.nn's, step by step in turn.

python benchmarks/applications.py --json applications.json      the time of an epoch
python benchmarks/applications.py --train --json ...            what trainings with both reach: an hour or more

Data is found as `rnnfast train` finds it: in the folder that RNNFAST_DATA names, or it is fetched. Both have the
same seed, initial weights and batches. A step is the trainer's: batch, loss, gradients, clipping, optimizer. Of
applications that train several models it is the last's: with a CRF, with attention, the longest series. The
recurrent share of a step is that of rnnfast's operators, forward and BPTT, input products and gradients of weights
included; torch.nn's follows from its time, since all else is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile

from rnnfast.lab.report import table
from rnnfast.recipes.applications import APPLICATIONS
from rnnfast.recipes.recipe import Recipe
from rnnfast.recipes.training import Progress, Schedule, Task, Trainer

LAYERS = ("rnnfast", "torch")
WARM_UP, PROFILED = 3, 5  # steps
# What each is judged by on held-out data, from its results.
METRICS: dict[str, tuple[str, Callable[[Any], float]]] = {
    "forecast": ("RMSE one step ahead, airline passengers", lambda r: r["series"][0]["one step"]["rmse"]),
    "charlm": ("nats per character", lambda r: r["nats per character"]),
    "wordlm": ("nats per character", lambda r: r["nats per character"]),
    "music": ("nats per frame", lambda r: r["nats per frame"]),
    "sentiment": ("accuracy, mean of seeds", lambda r: statistics.mean(s["accuracy"] for s in r["seeds"])),
    "ner": ("F1 with CRF", lambda r: r["judged"]["with CRF"]["F1"]),
    "speech": ("word error rate", lambda r: r["strings"]["word error rate"]),
    "translate": ("BLEU with attention", lambda r: r["judged"]["with attention"]["BLEU"]),
    "caption": ("exact on unseen combinations", lambda r: r["judged"]["unseen combinations"]["lstm"]["exact"]),
}
# Of those that take long to train, in comparing what is reached.
SHORTER = {"translate": ["--epochs", "1", "--hidden-size", "128"], "wordlm": ["--epochs", "2"]}


class Collector(Trainer):
    """Takes what a program wants trained, in place of training it."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: list[tuple[Task, Schedule, str]] = []

    def train(self, task: Task, schedule: Schedule, name: str) -> Progress:
        """Notes it."""
        self.wanted.append((task, schedule, name))
        return Progress({}, metrics=[{}])


def last_training(application: str, layers: str) -> tuple[Any, int]:
    """What takes the steps of an application's last training, and how many are an epoch.

    All of them where there are no epochs, since what is trained on is put together anew at each step.
    """
    collector = Collector()
    program: Any = APPLICATIONS[application](layers=layers)
    with mock.patch.object(Recipe, "trainer", return_value=collector):
        program.fit()
    task: Any
    task, schedule, name = collector.wanted[-1]
    steps = schedule.steps
    if hasattr(task, "per_epoch"):
        steps = task.per_epoch
    elif hasattr(task, "order"):
        steps = task.order.steps_per_epoch
    return Trainer(seed=program.seed).begin(task, schedule, name), steps


def in_turn(runs: dict[str, Any], seconds: float) -> dict[str, list[float]]:
    """Times of the same steps of each, the one that begins changing from step to step."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    begin, step = time.perf_counter(), 0
    while step < WARM_UP + PROFILED or time.perf_counter() - begin < seconds:
        for name in list(runs)[:: 1 if step % 2 else -1]:
            start = time.perf_counter()
            runs[name].step(step)
            times[name].append(time.perf_counter() - start)
        step += 1
    return {name: found[WARM_UP:] for name, found in times.items()}


def recurrent_seconds(run: Any) -> float:
    """Of a step, in rnnfast's operators."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for step in range(PROFILED):
            run.step(step)
    own = sum(row.self_cpu_time_total for row in found.key_averages() if row.key.startswith("rnnfast::"))
    return own * 1e-6 / PROFILED


def measure(application: str, seconds: float) -> dict[str, float]:
    """Seconds of an epoch of both, their ratio, and the recurrent share of both."""
    runs, steps = {}, 0
    for layers in LAYERS:
        runs[layers], steps = last_training(application, layers)
    times = {name: statistics.median(found) for name, found in in_turn(runs, seconds).items()}
    share = recurrent_seconds(runs["rnnfast"]) / times["rnnfast"]
    others = (1 - share) * times["rnnfast"]
    return {
        "steps": steps,
        **{f"seconds, {name}": steps * found for name, found in times.items()},
        "ratio": times["torch"] / times["rnnfast"],
        "recurrent share, rnnfast": share,
        "recurrent share, torch": max(0.0, 1 - others / times["torch"]),
    }


def reached(application: str, layers: str) -> float:
    """Trains as `rnnfast train` does, and returns the metric on what is held out."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "rnnfast", "train", application, "--layers", layers, "--output", folder]
        command += SHORTER.get(application, [])
        done = subprocess.run(command, stdout=subprocess.DEVNULL)
        if done.returncode:
            sys.exit(f"applications.py: {' '.join(command)} failed")
        found = json.loads((Path(folder) / "results.json").read_text())
    return METRICS[application][1](found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("applications", nargs="*", help=f"of {', '.join(APPLICATIONS)} (default: all)")
    parser.add_argument("--seconds", type=float, default=30, help="for each application")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--train", action="store_true", help="to the end, with both layers, in place of timing")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="record; what it has of other applications stays"
    )
    options = parser.parse_args()
    for name in options.applications:
        if name not in APPLICATIONS:
            parser.error(f"applications: got {name}, expected of {', '.join(APPLICATIONS)}")
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    found = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    found |= {"torch": torch.__version__, "threads": options.threads}
    rows = found.setdefault("applications", {})
    for name in options.applications or APPLICATIONS:
        row = rows.setdefault(name, {})
        if options.train:
            row["metric"] = " ".join([METRICS[name][0], *SHORTER.get(name, [])])
            row |= {f"reached, {layers}": reached(name, layers) for layers in LAYERS}
        else:
            row |= measure(name, options.seconds)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    wanted = ("seconds", "ratio", "recurrent share", "reached")
    columns = list(dict.fromkeys(c for row in rows.values() for c in row if c.split(",")[0] in wanted))
    shown = [[name, *(f"{row[c]:.4g}" if c in row else "" for c in columns)] for name, row in rows.items()]
    print(table(["", *columns], shown))


if __name__ == "__main__":
    main()
