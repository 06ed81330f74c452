"""Exercise 2: the adding problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import initialization
from ..._program import Result, setting
from ...lab import tasks
from ...lab.figures import panels
from ...lab.report import table
from ...models import CELLS, ReadoutRNN
from ..recipe import Recipe
from ..training import Progress, Schedule, Task, generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# An answer is right within this; Hochreiter and Schmidhuber's criterion (Neural Computation 9, 1997).
RIGHT = 0.04


class AddingTask(Task):
    """Fresh sequences at each step.

    Args:
        problem: draws them; model: from (B, T, 2) to outputs (B, T, 1), of which the last counts.
    """

    def __init__(self, problem: tasks.Adding, model: nn.Module, batch_size: int, seed: int) -> None:
        super().__init__(model)
        self.problem, self.batch_size, self.seed = problem, batch_size, seed

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Sequences and their sums."""
        return self.problem.batch(self.batch_size, generator(self.seed, step))

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
        """Squared errors."""
        inputs, sums = batch
        return F.mse_loss(model(inputs)[0][:, -1], sums, reduction="sum"), len(sums)

    def evaluate(self) -> dict[str, float]:
        """On held-out sequences."""
        answers, sums = self.answers()
        errors = answers - sums
        return {"mse": float(errors.square().mean()), "right": float((errors.abs() < RIGHT).float().mean())}

    @torch.no_grad()
    def answers(self) -> tuple[Tensor, Tensor]:
        """The model's, and the true ones, of held-out sequences."""
        inputs, sums = self.problem.held_out()
        place = next(self.model.parameters()).device
        return self.model(inputs.to(place))[0][:, -1].cpu(), sums


@dataclass(frozen=True)
class Adding(Recipe):
    """Learns to add two marked numbers of a sequence, for several lengths.

    Numbers are uniform in [0, 1]. Without looking at the marks the best answer is 1, its mean squared error 1/6.
    """

    section = "Exercise 2: Adding Problem"
    examples = ("--cell gru --lengths 50 200", "--cell rnn", "--initialization default")

    cell: str = setting("lstm", "of the layer", choices=CELLS)
    lengths: tuple[int, ...] = setting((10, 30, 100), "of the sequences", least=2)
    hidden_size: int = setting(64, "units", least=1)
    initialization: str = setting(
        "chrono", "of the gates' biases, which an rnn has not", choices=("chrono", "default")
    )
    steps: int = setting(1500, "of training, for each length", least=1)
    batch_size: int = setting(64, "sequences of a step", least=1)
    rate: float = setting(5e-3, "highest learning rate", least=0)

    def run(self) -> Result:
        """Trains a model for each length."""
        trainer, models, rows, curves = self.trainer(), [], [], {}
        schedule = Schedule(self.steps, self.rate, weight_decay=0.0, evaluate_every=max(1, self.steps // 10))
        for length in self.lengths:
            task = AddingTask(tasks.Adding(length), self.model(length), self.batch_size, self.seed)
            trained = trainer.train(task, schedule, f"length-{length}")
            found = task.evaluate()
            models.append(task.model)
            curves[length] = trained
            rows.append({"length": length, **found, "baseline": task.problem.baseline, "curve": trained.metrics})
        self.save_model("adding", models, lengths=list(self.lengths))
        heading = f"{self.cell}, {self.hidden_size} units, on {tasks.HELD_OUT} held-out sequences:"
        shown = [[str(r["length"]), f"{r['mse']:.5f}", f"{r['baseline']:.3f}", f"{r['right']:.1%}"] for r in rows]
        columns = ["length", "MSE", "baseline", f"within {RIGHT}"]
        lines = [heading, "", table(columns, shown), "", *examples(task)]
        data = {"settings": self.settings(), "lengths": rows}
        return Result("\n".join(lines), data, {"adding": lambda: draw(self.cell, curves)})

    def model(self, length: int) -> ReadoutRNN:
        """An untrained one."""
        torch.manual_seed(self.seed)
        model = ReadoutRNN(2, self.hidden_size, 1, cell=self.cell, layers=self.layers)
        if self.initialization == "chrono" and self.cell != "rnn":
            initialization.chrono_(model.rnn, max(3, length))
        return model


def examples(task: AddingTask) -> list[str]:
    """Some held-out sequences with their answers."""
    inputs, _ = task.problem.held_out()
    answers, sums = task.answers()
    lines = [f"Of length {task.problem.length}:"]
    for (numbers, marks), answer, total in zip(inputs[:4].transpose(1, 2), answers, sums, strict=False):
        first, second = numbers[marks.bool()].tolist()
        shown = f"{first:.3f} + {second:.3f} = {total.item():.3f}"
        at = marks.nonzero().flatten().tolist()
        lines.append(f"  {shown}, answer {answer.item():.3f}   (marked at steps {at[0] + 1} and {at[1] + 1})")
    return lines


def draw(cell: str, curves: dict[int, Progress]) -> Figure:
    """Error by training step, a curve for each length, and the baseline."""
    figure, (axes,) = panels()
    for length, trained in curves.items():
        steps = [found["step"] for found in trained.metrics]
        axes.semilogy(steps, [found["mse"] for found in trained.metrics], marker=".", label=f"length {length}")
    axes.axhline(1 / 6, color="0.4", linestyle="--", label="always answering 1")
    axes.set(xlabel="training step", ylabel="mean squared error, held out", title=f"Adding problem, {cell}")
    axes.legend()
    return figure


__all__ = ["Adding", "AddingTask", "draw"]
