"""Models that learn the same task with the same budget, each from several seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .figures import band, panels
from .tasks import Task
from .training import Run, one_thread, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A run has solved its task if its error is at most this share of the best answer that ignores the input.
SOLVED = 0.1
POINTS = 100  # of a curve, in figures and data


@dataclass(frozen=True)
class Candidate:
    """A model to train.

    Args:
        make: a new model, its initial values from torch's random numbers.
        options: of :func:`rnnfast.lab.train`, where they differ from the others'.
    """

    make: Callable[[], nn.Module]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Comparison:
    """Runs of each candidate, one for each seed.

    Args:
        task: what they learnt.
        runs: by the candidate's name.
        parameters: how many each has.
    """

    task: Task
    runs: dict[str, list[Run]]
    parameters: dict[str, int]

    def errors(self, name: str) -> list[float]:
        """On held-out sequences, by seed; infinite where training diverged."""
        return [math.inf if run.diverged else run.error for run in self.runs[name]]

    def error(self, name: str) -> float:
        """The median over seeds."""
        return statistics.median(self.errors(name))

    def solved(self, name: str) -> float:
        """The share of seeds that solved the task."""
        limit = SOLVED * self.task.baseline
        return statistics.mean(error <= limit for error in self.errors(name))

    def data(self) -> dict[str, Any]:
        """Plain numbers for JSON; null stands for an error that is not finite."""
        return {
            name: {
                "parameters": self.parameters[name],
                "errors": self.errors(name),
                "solved": self.solved(name),
                "steps": [len(run.losses) for run in runs],
                "losses": [[significant(v) for v in thinned(run.losses)] for run in runs],
            }
            for name, runs in self.runs.items()
        }

    def draw(self, floors: Mapping[str, float] | None = None) -> Figure:
        """Losses in training, the median over seeds and their range; `floors` become horizontal lines."""
        figure, (axes,) = panels()
        for name, runs in self.runs.items():
            draw_losses(axes, runs, name)
        for dashes, (name, floor) in zip(("--", ":", "-."), (floors or {}).items(), strict=False):
            axes.axhline(floor, color="0.3", linestyle=dashes, linewidth=1, label=name)
        axes.set(xlabel="training step", ylabel=f"loss ({self.task.unit})", yscale=self.task.scale)
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
        return figure


def compare(
    task: Task,
    candidates: Mapping[str, Callable[[], nn.Module] | Candidate],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    device: str = "cpu",
    workers: int | None = None,
    done: Callable[[], object] = lambda: None,
    **options: Any,
) -> Comparison:
    """Trains each candidate from each seed: of its initial values and of the sequences that it learns from.

    Args:
        task: what to learn.
        candidates: by name, what makes a new model, or a :class:`Candidate`.
        seeds: one run for each.
        device: where to train.
        workers: how many runs side by side; as many as torch has threads if not given. The numbers do not depend
            on it, but of models that draw random numbers in training, as for dropout: take one worker for them.
        done: called after each run.
        options: of :func:`rnnfast.lab.train`.

    Example:
        >>> from rnnfast.lab import CopyFirst
        >>> from rnnfast.models import ReadoutRNN
        >>> found = compare(CopyFirst(5), {"gru": lambda: ReadoutRNN(1, 8, 1, cell="gru")}, steps=2)
        >>> found.parameters, len(found.runs["gru"])
        ({'gru': 273}, 3)
    """
    named = {name: c if isinstance(c, Candidate) else Candidate(c) for name, c in candidates.items()}
    found = Comparison(task, {name: [] for name in named}, {})
    jobs = []
    for name, candidate in named.items():
        for seed in seeds:
            torch.manual_seed(seed)
            model = candidate.make().to(device)
            found.parameters[name] = count(model)
            jobs.append((name, partial(train, model, task, seed=seed, **{**options, **candidate.options})))
    for (name, _), run in zip(jobs, _side_by_side([job for _, job in jobs], workers, done), strict=True):
        found.runs[name].append(run)
    return found


def _side_by_side(jobs: Sequence[Callable[[], Run]], workers: int | None, done: Callable[[], object]) -> list[Run]:
    """What the jobs return, run in so many threads, with one thread of torch's in each."""
    workers = torch.get_num_threads() if workers is None else workers
    with one_thread():
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        try:
            futures = [pool.submit(job) for job in jobs]
            for future in as_completed(futures):
                future.result()
                done()
        finally:
            pool.shutdown(cancel_futures=True)
    return [future.result() for future in futures]


def count(model: nn.Module) -> int:
    """How many parameters a model has."""
    return sum(p.numel() for p in model.parameters())


def thinned(losses: Sequence[float], points: int = POINTS) -> list[float]:
    """Means of consecutive losses, about so many."""
    size = max(1, len(losses) // points)
    return [statistics.fmean(block) for block in _blocks(losses, size)]


def _blocks(values: Sequence[float], size: int) -> Iterator[Sequence[float]]:
    for start in range(0, len(values) - size + 1, size):
        yield values[start : start + size]


def significant(value: float) -> float:
    """To four digits: more would be noise in a file."""
    return float(f"{value:.4g}")


def draw_losses(axes: Any, runs: Sequence[Run], label: str, **style: Any) -> None:
    """The losses of all seeds as one line and a shade, to the end of the shortest run."""
    steps = min(len(run.losses) for run in runs)
    size = max(1, steps // POINTS)
    curves = [thinned(run.losses[:steps]) for run in runs]
    band(axes, [size * (i + 0.5) for i in range(len(curves[0]))], curves, label, **style)


__all__ = ["SOLVED", "Candidate", "Comparison", "compare", "count", "draw_losses", "significant", "thinned"]
