"""What is said to help against vanishing gradients, one switch at a time."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from .._program import Program, Result, progress, setting
from .candidates import CANDIDATES
from .comparison import Candidate, Comparison, compare
from .figures import panels
from .report import Claim, plain, summary, table
from .tasks import Adding, CopyFirst, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# How much a solution helps, from the least; what is said of it in the text is one of these.
LEVELS = ("none", "modest", "effective", "very effective")
BASE = "vanilla RNN"
# Training ends at this share of the error of ignoring the input, well below what counts as solved.
ENOUGH = 0.02
TASKS: dict[str, type[Task]] = {"copy-first": CopyFirst, "adding": Adding}


class Solution(NamedTuple):
    """One switch.

    Args:
        model: in :data:`rnnfast.lab.CANDIDATES`.
        said: the text's word on how much it helps, as one of `LEVELS`; None where it has nothing.
        options: of the training.
    """

    model: str
    said: str | None
    options: dict[str, Any] = {}  # noqa: RUF012 (never changed)


SOLUTIONS: dict[str, Solution] = {
    BASE: Solution("rnn", None),
    "gradient clipping": Solution("rnn", "none", {"clip": 1.0}),
    "orthogonal initial W_hh": Solution("rnn-orthogonal", "modest"),
    "LSTM": Solution("lstm", "very effective"),
    "GRU": Solution("gru", "very effective"),
    "skip connections": Solution("rnn-skip", "effective"),
    "attention": Solution("rnn-attention", "very effective"),
    "LSTM, chrono biases": Solution("lstm-chrono", None),
    "GRU, chrono biases": Solution("gru-chrono", None),
}


def effect(found: Comparison, name: str, base: str = BASE) -> str:
    """How much a candidate helps, as one of `LEVELS`: it is very effective where all seeds solve the task,
    effective where most do, modest where some do, but of `base` fewer.
    """
    solved = found.solved(name)
    if solved > 0.5:
        return "very effective" if solved == 1 else "effective"
    return "modest" if solved > found.solved(base) else "none"


@dataclass(frozen=True)
class SolutionsExperiment(Program):
    """What helps against vanishing gradients, and how much?

    A vanilla RNN and, one switch at a time, each solution that the text lists, at the same task, number of units,
    steps at most, and rate; at the end two that the text does not list. What clipping does against explosion is
    the experiment `clipping`.
    """

    section: ClassVar[str] = "Solutions to Vanishing Gradients"
    examples: ClassVar[tuple[str, ...]] = ("--tasks copy-first --length 50 --seeds 5",)

    tasks: tuple[str, ...] = setting(tuple(TASKS), "to learn", choices=tuple(TASKS), metavar="NAME")
    length: int = setting(100, "steps of a sequence", least=4)
    seeds: int = setting(3, "runs of each", least=1)
    steps: int = setting(1500, "of training, at most: it ends when a task is solved", least=1)
    hidden_size: int = setting(32, "units", least=1)
    batch_size: int = setting(32, "sequences a step", least=1)
    rate: float = setting(0.01, "of Adam", least=0)

    def run(self) -> Result:
        """Trains all solutions at all tasks."""
        bar = iter(progress(range(len(self.tasks) * len(SOLUTIONS) * self.seeds), "training", "run"))
        found = {
            name: compare(
                task,
                self._candidates(task),
                seeds=range(self.seed, self.seed + self.seeds),
                device=self.device,
                done=lambda: next(bar, None),
                steps=self.steps,
                batch_size=self.batch_size,
                rate=self.rate,
                stop_at=ENOUGH * task.baseline,
            )
            for name, task in ((name, TASKS[name](self.length)) for name in self.tasks)
        }
        claims = [claim for name, of in found.items() for claim in _claims(name, of)]
        heading = (
            f"Length {self.length}, {self.hidden_size} units, at most {self.steps} steps of Adam, {self.seeds} "
            "seeds. Very effective: all seeds solve the task (a tenth of the error of ignoring the input); "
            "effective: most do; modest: some do, and fewer of the vanilla RNN's."
        )
        data: dict[str, Any] = {
            "tasks": {
                name: {
                    solution: {**numbers, "effect": effect(of, solution), "said": _said(solution)}
                    for solution, numbers in of.data().items()
                }
                for name, of in found.items()
            },
            "claims": plain(claims),
        }
        return Result(summary(heading, _table(found), claims), data, {"solutions": partial(draw, found)})

    def _candidates(self, task: Task) -> dict[str, Candidate]:
        return {
            name: Candidate(partial(CANDIDATES[solution.model], task, self.hidden_size), solution.options)
            for name, solution in SOLUTIONS.items()
        }


def _said(name: str) -> str | None:
    return SOLUTIONS[name].said if name in SOLUTIONS else None


def _table(found: dict[str, Comparison]) -> str:
    header = ["", "the text"]
    for task in found:
        header += [task, "solved", "steps", "effect"]
    rows = []
    for name in next(iter(found.values())).runs:
        row = [name, _said(name) or ""]
        for of in found.values():
            steps = statistics.median_high(len(run.losses) for run in of.runs[name])
            row += [f"{of.error(name):.3f}", f"{of.solved(name):.0%}", str(steps)]
            row += ["" if name == BASE else effect(of, name)]
        rows.append(row)
    return table(header, rows)


def _claims(task: str, found: Comparison) -> list[Claim]:
    """The text's words beside the measured ones."""
    claims = []
    for name, solution in SOLUTIONS.items():
        if solution.said is None:
            continue
        measured = effect(found, name)
        more = LEVELS.index(measured) - LEVELS.index(solution.said)
        than = "" if more == 0 else f", {'more' if more > 0 else 'less'} than that"
        said = "none against vanishing" if solution.said == "none" else solution.said
        shares = f"{found.solved(name):.0%} of the seeds solve it, {found.solved(BASE):.0%} of the vanilla RNN's"
        claims.append(Claim(f"{name}: {said}", more == 0, f"{task}, {measured}{than} ({shares})"))
    return claims


def draw(found: dict[str, Comparison]) -> Figure:
    """Held-out errors, a dot for each seed; beside each solution the text's word."""
    names = list(next(iter(found.values())).runs)
    figure, axes = panels(1, len(found), height=5.2, sharey=True)
    for panel, (task, of) in zip(axes, found.items(), strict=True):
        for i, name in enumerate(names):
            errors = [error for error in of.errors(name) if math.isfinite(error)]
            panel.plot(errors, [i] * len(errors), "o", color="C0", alpha=0.6, markersize=5)
            panel.plot(of.error(name), i, "|", color="C3", markersize=16, markeredgewidth=2)
        panel.axvline(of.task.baseline, color="0.3", linestyle="--", linewidth=1)
        panel.axvline(of.task.baseline / 10, color="0.3", linestyle=":", linewidth=1)
        panel.set(title=task, xscale="log", xlabel=f"held-out {of.task.unit}")
    labels = [f"{name}\n(text: {_said(name)})" if _said(name) else name for name in names]
    axes[0].set_yticks(range(len(names)), labels, fontsize="small")
    axes[0].invert_yaxis()
    handles = [
        axes[0].plot([], [], "o", color="C0", alpha=0.6, label="a seed")[0],
        axes[0].plot([], [], "|", color="C3", markersize=12, markeredgewidth=2, label="median")[0],
        axes[0].plot([], [], "--", color="0.3", linewidth=1, label="ignoring the input")[0],
        axes[0].plot([], [], ":", color="0.3", linewidth=1, label="solved")[0],
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize="small")
    return figure


__all__ = ["LEVELS", "SOLUTIONS", "Solution", "SolutionsExperiment", "effect"]
