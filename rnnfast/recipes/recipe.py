"""What programs that train on data have in common."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._program import Program, UserError, main_process, setting, whole_file
from .training import Trainer

# Settings that change nothing about the numbers that training gives.
ELSEWHERE = frozenset(("output", "restart", "data", "save_every"))
FORMAT = "rnnfast model 1"
# What torch.load raises, besides errors of its own, for a file of other content.
DAMAGE = (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class Recipe(Program):
    """A program that trains a model: it goes on after an interruption, and leaves the model in its folder."""

    layers: str = setting("rnnfast", "whose recurrent layers", choices=("rnnfast", "torch"))
    precision: str = setting("no", "what activations are rounded to", choices=("no", "bf16", "fp16"))
    output: Path | None = setting(
        None,
        "folder for checkpoints, model, results and pictures (default: rnnfast-output/NAME)",
        metavar="FOLDER",
    )
    restart: bool = setting(False, "begin anew where an unfinished run lies in the folder")
    save_every: float = setting(20.0, "seconds between checkpoints", least=0)

    def trainer(self, seed: int | None = None) -> Trainer:
        """For this program's models, with its seed if no other is given."""
        return Trainer(
            seed=self.seed if seed is None else seed,
            device=self.device,
            precision=self.precision,
            folder=self.output,
            settings=self.settings(),
            restart=self.restart,
            save_every=self.save_every,
        )

    def settings(self) -> dict[str, Any]:
        """Those that the numbers depend on, as plain data."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ELSEWHERE}
        return {name: _plain(value) for name, value in found.items()}

    def save_model(self, task: str, models: list[nn.Module], **content: Any) -> None:
        """Writes ``model.pt``: weights, and what else it takes to use them."""
        if self.output is None or not main_process():
            return
        weights = [{name: w.cpu() for name, w in model.state_dict().items()} for model in models]
        whole = {"format": FORMAT, "task": task, "settings": self.settings(), **content, "weights": weights}
        with whole_file(self.output / "model.pt") as path:
            torch.save(whole, path)

    def finish(self) -> None:
        """Removes the checkpoints."""
        if self.output is not None:
            shutil.rmtree(self.output / "checkpoints", ignore_errors=True)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def load_model(path: Path, task: str) -> dict[str, Any]:
    """What :meth:`Recipe.save_model` wrote: settings, weights and the rest.

    Raises:
        UserError: if the file cannot be read, is damaged or holds another task's model.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"--checkpoint: cannot read {path}: {error.strerror or error}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's guesses at what else the bytes may be
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, *DAMAGE, pickle.UnpicklingError, zipfile.BadZipFile):
        raise UserError(f"--checkpoint: {path} is damaged, or no model of rnnfast's") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"--checkpoint: {path} is no model of rnnfast's")
    if content["task"] != task:
        raise UserError(f"--checkpoint: {path} holds a model for {content['task']}, expected one for {task}")
    return content


__all__ = ["Recipe", "load_model"]
