"""What applications have in common: ``train`` leaves a model in a file, ``predict`` answers with it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..._program import Program, Result, UserError, main_process, read_text, setting
from ...models import CELLS
from ..order import Order
from ..recipe import DAMAGE, Recipe, load_model
from ..training import Progress, Schedule, Task


@dataclass(frozen=True)
class Prediction(Program):
    """Answers with a model that ``train`` has left.

    Subclasses say for which application by `application`, and what INPUT is by `expects`.
    """

    keeps = False
    application: ClassVar[str] = ""
    expects: ClassVar[str] = ""

    input: str | None = setting(None, "a text, a file, or - for what comes on stdin", positional=True)
    checkpoint: Path | None = setting(
        None, "model.pt of `rnnfast train` (default: rnnfast-output/NAME/model.pt)", metavar="FILE"
    )
    output: Path | None = setting(
        None, "folder for the answer as JSON, and pictures (default: none is written)", metavar="FOLDER"
    )

    def run(self) -> Result:
        """Loads the model and has it answer.

        Raises:
            UserError: for a file that is no model of this application, or an input that is not what it takes.
        """
        path = self.checkpoint or Path("rnnfast-output") / self.application / "model.pt"
        content = load_model(path, self.application)
        try:
            models = self.load(content)
        except DAMAGE:
            raise UserError(f"--checkpoint: {path} is of another version of rnnfast, or damaged") from None
        torch.manual_seed(self.seed)
        return self.answer(content, models)

    def load(self, content: dict[str, Any]) -> list[nn.Module]:
        """The models of a checkpoint, ready to answer."""
        raise NotImplementedError

    def answer(self, content: dict[str, Any], models: list[Any]) -> Result:
        """What they say to the input."""
        raise NotImplementedError

    def ready(self, model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
        """A model with weights, where it is to run."""
        model.load_state_dict(weights)
        return model.to(self.device).eval()

    def text(self) -> str:
        """The input as text: what was given, or what the file of that name holds.

        Raises:
            UserError: where there is none, or it is not UTF-8.
        """
        if self.input is None:
            raise UserError(f"INPUT: none given, expected {self.expects}")
        if self.input == "-":
            found, where = sys.stdin.read(), "stdin"
        elif is_file(self.input):
            found, where = read_text(Path(self.input), "INPUT"), self.input
        else:
            found, where = self.input, "it"
        if not found.strip():
            raise UserError(f"INPUT: {where} is empty, expected {self.expects}")
        return found

    def file(self) -> Path:
        """The input as the name of a file.

        Raises:
            UserError: where there is none.
        """
        if self.input is None:
            raise UserError(f"INPUT: none given, expected {self.expects}")
        if not is_file(self.input):
            raise UserError(f"INPUT: {self.input} is no file, expected {self.expects}")
        return Path(self.input)


@dataclass(frozen=True)
class Application(Recipe):
    """Trains on real data, evaluates on held-out data, and leaves a model that :attr:`prediction` answers with.

    Subclasses train in :meth:`fit` and evaluate in :meth:`report`, which under ``torchrun`` one process does.
    """

    section = "RNN Applications"
    prediction: ClassVar[type[Prediction]]

    cell: str = setting("lstm", "of the layers", choices=CELLS)
    data: Path | None = setting(
        None, "folder that has the data sets (default: RNNFAST_DATA, or they are fetched)", metavar="FOLDER"
    )
    minutes: float | None = setting(
        None, "of training; where they are short, fewer steps at a rate that falls sooner", least=1e-6
    )

    def run(self) -> Result:
        """Trains and evaluates."""
        trained = self.fit()
        return self.report(trained) if main_process() else Result("", {})

    def fit(self) -> Any:
        """Trains; what it returns is given to :meth:`report`."""
        raise NotImplementedError

    def report(self, trained: Any) -> Result:
        """Saves the model and evaluates it."""
        raise NotImplementedError

    def train_and_choose(
        self, task: ChoosingTask, name: str, *, epochs: int, rate: float, models: int = 1
    ) -> Progress:
        """Trains a model, evaluates it after each epoch, and leaves it with the best weights.

        Args:
            name: of the training; epochs, rate: see :class:`~rnnfast.recipes.training.Schedule`.
            models: that share the time that training may take.
        """
        per_epoch = task.order.steps_per_epoch
        minutes = None if self.minutes is None else self.minutes / models
        schedule = Schedule(epochs * per_epoch, rate, evaluate_every=per_epoch, minutes=minutes)
        progress = self.trainer().train(task, schedule, name)
        task.best.restore(task.model)
        return progress


class Best:
    """The weights that a model had when a metric was lowest; part of what a task carries."""

    def __init__(self) -> None:
        self.value, self.weights = float("inf"), dict[str, Tensor]()

    def note(self, model: nn.Module, value: float) -> None:
        """Keeps the weights if the metric is lower than before."""
        if value < self.value:
            self.value = value
            self.weights = {name: w.detach().cpu().clone() for name, w in model.state_dict().items()}

    def restore(self, model: nn.Module) -> None:
        """Gives a model the weights kept, if there are any."""
        if self.weights:
            model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"value": self.value, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes it back."""
        self.value, self.weights = state["value"], state["weights"]


class ChoosingTask(Task):
    """A task that carries the weights that were best on data it is not trained on.

    Subclasses set `order`, that of the rows they train on.
    """

    order: Order

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.best = Best()

    def state_dict(self) -> dict[str, Any]:
        """The best weights."""
        return self.best.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes them back."""
        self.best.load_state_dict(state)


def is_file(name: str) -> bool:
    """Whether a text, long or with signs that no name has, is the name of a file."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


__all__ = ["Application", "Best", "ChoosingTask", "Prediction", "is_file"]
