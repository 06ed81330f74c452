"""How far back models remember: the copy-first task and the adding problem, over lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from .._program import Program, Result, UserError, progress, setting
from .candidates import CANDIDATES
from .comparison import Comparison, compare, draw_losses
from .figures import COLORS, panels
from .report import Claim, plain, summary, table
from .tasks import Adding, CopyFirst, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GATED = ("lstm", "gru")


@dataclass
class Memory:
    """Comparisons of the same models at several lengths.

    Args:
        at: by length, ascending.
    """

    at: dict[int, Comparison]

    @property
    def models(self) -> list[str]:
        """Their names."""
        return list(next(iter(self.at.values())).runs)

    def reach(self, name: str) -> int:
        """The longest length up to which most of a model's seeds solve the task; 0 if none."""
        longest = 0
        for length, found in self.at.items():
            if found.solved(name) <= 0.5:
                break
            longest = length
        return longest

    def solve_all(self) -> list[str]:
        """The models that reach the longest length."""
        return [name for name in self.models if self.reach(name) == max(self.at)]

    def table(self) -> str:
        """Median error and share of seeds that solved the task, by model and length."""
        header = ["median error (solved)", *(f"T = {length}" for length in self.at)]
        rows = [
            [name, *(f"{found.error(name):.4f} ({found.solved(name):4.0%})" for found in self.at.values())]
            for name in self.models
        ]
        return table(header, rows)

    def draw(self) -> Figure:
        """Held-out error against length: medians over seeds, and a bar from the least to the greatest."""
        figure, (axes,) = panels()
        lengths = list(self.at)
        for i, name in enumerate(self.models):
            errors = [found.errors(name) for found in self.at.values()]
            middle = [found.error(name) for found in self.at.values()]
            below = [m - min(e) for m, e in zip(middle, errors, strict=True)]
            above = [max(e) - m for m, e in zip(middle, errors, strict=True)]
            shifted = [
                length * 1.03 ** (i - len(self.models) / 2) for length in lengths
            ]  # so that bars can be seen
            style: dict[str, Any] = dict(color=COLORS.get(name), marker="o", markersize=4, capsize=3)
            axes.errorbar(shifted, middle, yerr=[below, above], label=name, **style)
        task = next(iter(self.at.values())).task
        axes.axhline(task.baseline, color="0.3", linestyle="--", linewidth=1, label="ignoring the input")
        axes.set(
            xlabel="length of the sequence (steps)", ylabel=f"held-out {task.unit}", yscale="log", xscale="log"
        )
        axes.set_xticks(lengths, [str(length) for length in lengths])
        axes.set_xticks([], minor=True)
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
        return figure

    def draw_training(self) -> Figure:
        """Losses in training: a panel for each model, a line for each length."""
        columns = 3
        rows = -(-len(self.models) // columns)
        figure, axes = panels(rows, columns, height=2.4 * rows + 0.6, sharex=True, sharey=True)
        for panel, name in zip(axes, self.models, strict=False):
            for i, (length, found) in enumerate(self.at.items()):
                color = f"C{i}"
                draw_losses(panel, found.runs[name], f"T = {length}", color=color, linewidth=1)
            panel.set_title(name, fontsize="medium")
        for empty in axes[len(self.models) :]:
            empty.remove()
        task = next(iter(self.at.values())).task
        axes[0].set_yscale("log")
        figure.supxlabel("training step", fontsize="medium")
        figure.supylabel(f"loss ({task.unit})", fontsize="medium")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(self.at))
        return figure


def remember(
    task: Any, models: Sequence[str], lengths: Sequence[int], *, hidden_size: int = 32, **options: Any
) -> Memory:
    """Trains models on a task at several lengths.

    Args:
        task: from a length to a :class:`~rnnfast.lab.Task`, such as :class:`~rnnfast.lab.CopyFirst`.
        models: names in :data:`rnnfast.lab.CANDIDATES`; for models of your own see :func:`rnnfast.lab.compare`.
        lengths: of the sequences.
        hidden_size: units of each.
        options: of :func:`rnnfast.lab.compare`.

    Example:
        >>> from rnnfast.lab import Adding
        >>> memory = remember(Adding, ["gru"], [4, 8], hidden_size=8, steps=2, seeds=[0])
        >>> list(memory.at), memory.reach("gru")
        ([4, 8], 0)
    """
    tasks: dict[int, Task] = {length: task(length) for length in sorted(lengths)}
    return Memory(
        {
            length: compare(at, {name: partial(CANDIDATES[name], at, hidden_size) for name in models}, **options)
            for length, at in tasks.items()
        }
    )


@dataclass(frozen=True)
class _MemoryExperiment(Program):
    """What both experiments have in common."""

    section: ClassVar[str] = "The Impact on Learning"
    _task: ClassVar[type[Task]]
    _heading: ClassVar[str]

    models: tuple[str, ...] = setting(
        ("feedforward", "rnn", "lstm", "gru", "lstm-chrono", "gru-chrono"),
        "to compare",
        choices=tuple(CANDIDATES),
        metavar="NAME",
    )
    lengths: tuple[int, ...] = setting((10, 30, 50, 100), "of the sequences", least=2)
    seeds: int = setting(3, "runs of each model and length", least=1)
    steps: int = setting(1000, "of training", least=1)
    hidden_size: int = setting(32, "units", least=1)
    batch_size: int = setting(32, "sequences a step", least=1)
    rate: float = setting(0.01, "of Adam", least=0)
    clip: float | None = setting(None, "largest norm of the gradient (default: no limit)", least=0)

    def run(self) -> Result:
        """Trains all models at all lengths."""
        if len(set(self.lengths)) < len(self.lengths):
            raise UserError(f"--lengths: got {' '.join(map(str, self.lengths))}, expected each once")
        bar = iter(progress(range(len(self.models) * len(self.lengths) * self.seeds), "training", "run"))
        memory = remember(
            self._task,
            self.models,
            self.lengths,
            hidden_size=self.hidden_size,
            seeds=range(self.seed, self.seed + self.seeds),
            device=self.device,
            done=lambda: next(bar, None),
            steps=self.steps,
            batch_size=self.batch_size,
            rate=self.rate,
            clip=self.clip,
        )
        claims = claims_about(memory)
        task = next(iter(memory.at.values())).task
        heading = (
            f"{self._heading}; {self.steps} steps of Adam, {self.seeds} seeds. Held-out {task.unit}; the best "
            f"that ignores the input is {task.baseline:.3f}, solved means at most a tenth of it."
        )
        data = {
            "baseline": task.baseline,
            "lengths": {str(length): found.data() for length, found in memory.at.items()},
            "solve_all": memory.solve_all(),
            "reach": {name: memory.reach(name) for name in memory.models},
            "claims": plain(claims),
        }
        figures = {"errors": memory.draw, "training": memory.draw_training}
        found = f"{memory.table()}\n\nSolved at every length: {', '.join(memory.solve_all()) or 'none'}."
        return Result(summary(heading, found, claims), data, figures)


@dataclass(frozen=True)
class CopyFirstExperiment(_MemoryExperiment):
    """Which models can still say at the end of a sequence what came first?"""

    examples: ClassVar[tuple[str, ...]] = (
        "--models rnn rnn-orthogonal irnn --lengths 30 100",
        "--models lstm lstm-forget-1 lstm-chrono --lengths 100 300",
    )
    _task: ClassVar[type[Task]] = CopyFirst
    _heading: ClassVar[str] = "Copy-first: answer with the first value after noise of deviation 0.1"


@dataclass(frozen=True)
class AddingExperiment(_MemoryExperiment):
    """Which models can add two numbers that are marked, however far apart?"""

    examples: ClassVar[tuple[str, ...]] = ("--models rnn lstm gru --lengths 50 100 200 --steps 2000",)
    _task: ClassVar[type[Task]] = Adding
    _heading: ClassVar[str] = "Adding problem: the sum of two numbers that are marked, one in each half"


def claims_about(memory: Memory) -> list[Claim]:
    """What the text says about the models that were compared, and what was found."""
    longest = max(memory.at)
    reach = {name: memory.reach(name) for name in memory.models}
    claims = []
    if "feedforward" in reach:
        errors = [found.error("feedforward") / found.task.baseline for found in memory.at.values()]
        claims.append(
            Claim(
                "without memory of earlier inputs a network fails",
                not any(found.solved("feedforward") for found in memory.at.values()),
                f"feedforward's error is {min(errors):.2f} to {max(errors):.2f} of what ignoring the input gives",
            )
        )
    if "rnn" in reach:
        claims.append(
            Claim(
                "a vanilla RNN is unable to learn long-range dependencies",
                reach["rnn"] < longest,
                f"it solves {_up_to(reach['rnn'])}, of lengths up to {longest}",
            )
        )
    gated = [name for name in GATED if name in reach]
    if gated:
        effective = all(reach[name] == longest for name in gated)
        against = "" if "rnn" not in reach else f"; rnn {_up_to(reach['rnn'])}"
        measured = ", ".join(f"{name} solves {_up_to(reach[name])}" for name in gated)
        claims.append(
            Claim("LSTM and GRU are very effective against vanishing gradients", effective, measured + against)
        )
    return claims


def _up_to(length: int) -> str:
    return f"lengths up to {length}" if length else "no length"


__all__ = ["AddingExperiment", "CopyFirstExperiment", "Memory", "claims_about", "remember"]
