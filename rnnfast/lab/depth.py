"""Shallow against deep at equal parameter counts."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import nn

from .._program import Program, Result, UserError, progress, setting
from ..models import CELLS, LanguageModel, recurrent_layer
from .comparison import Comparison, compare, count
from .report import Claim, plain, summary, table
from .tasks import Characters

# How far parameter counts that are called equal may be apart.
EQUAL = 0.02


def width_for(make: Callable[[int], nn.Module], parameters: int, *, widest: int = 8192) -> int:
    """The width at which a model has about so many parameters.

    Args:
        make: a model of a width; one of more width has more parameters.
        parameters: to come near to.
        widest: where the search ends.

    Raises:
        ValueError: where no width comes within 2 %.

    Example:
        >>> width_for(lambda H: rnnfast.RNN(10, H, 4), parameters=18_000)
        49
    """

    def size(width: int) -> int:
        with torch.device("meta"):
            return count(make(width))

    above = min(widest, 1 + bisect.bisect_left(range(1, widest), parameters, key=size))
    width = min((w for w in (above - 1, above) if w > 0), key=lambda w: abs(size(w) - parameters))
    if abs(size(width) - parameters) > EQUAL * parameters:
        raise ValueError(f"parameters: got {parameters}, the nearest there is has {size(width)}")
    return width


@dataclass(frozen=True)
class DepthExperiment(Program):
    """Are deep networks better than shallow ones of as many parameters?

    Learnt is English text that ships with Python, by character: a real language has structure at several scales
    (spelling, words, sentences), which is where depth is said to help (Hermans and Schrauwen, "Training and
    analysing deep recurrent neural networks", NIPS 2013), and it is the text's own example.
    """

    section: ClassVar[str] = "Deep RNNs"
    examples: ClassVar[tuple[str, ...]] = ("--cell gru --depths 1 2 3",)

    cell: str = setting("rnn", "of the layers", choices=CELLS)
    depths: tuple[int, ...] = setting(
        (1, 2, 4), "numbers of layers; the first says how many parameters all have", least=1
    )
    width: int = setting(128, "units of a layer at the first depth", least=8)
    embedding_size: int = setting(32, "features of an embedded character", least=1)
    seeds: int = setting(3, "runs of each depth", least=1)
    length: int = setting(50, "characters of a sequence", least=1)
    steps: int = setting(800, "of training", least=1)
    batch_size: int = setting(32, "sequences a step", least=1)
    rate: float = setting(0.003, "of Adam", least=0)
    clip: float = setting(1.0, "largest norm of the gradient", least=0)

    def run(self) -> Result:
        """Trains all depths."""
        from pydoc_data.topics import topics

        if len(set(self.depths)) < len(self.depths):
            raise UserError(f"--depths: got {' '.join(map(str, self.depths))}, expected each once")
        task = Characters(self.length, "\n".join(topics.values()))
        parameters = count(self._model(len(task.alphabet), self.depths[0], self.width))
        widths = {self.depths[0]: self.width}
        for depth in self.depths[1:]:
            try:
                widths[depth] = width_for(partial(self._model, len(task.alphabet), depth), parameters)
            except ValueError as error:
                raise UserError(f"--width: got {self.width}; {error} ({depth} layers)") from None
        names = {depth: f"{depth} x {width}" for depth, width in widths.items()}
        bar = iter(progress(range(len(widths) * self.seeds), "training", "run"))
        found = compare(
            task,
            {names[d]: partial(self._model, len(task.alphabet), d, w) for d, w in widths.items()},
            seeds=range(self.seed, self.seed + self.seeds),
            device=self.device,
            done=lambda: next(bar, None),
            steps=self.steps,
            batch_size=self.batch_size,
            rate=self.rate,
            clip=self.clip,
        )
        claims = [_size_claim(), *_depth_claims(found, names)]
        heading = (
            f"Characters of English text, {self.cell}, layers x units, parameters within 2 %; {self.steps} steps "
            f"of Adam, {self.seeds} seeds. Held-out {task.unit}; single characters give {task.baseline:.2f}."
        )
        rows = [
            [name, f"{found.parameters[name]:,}", f"{found.error(name):.3f}", _range(found.errors(name))]
            for name in found.runs
        ]
        data = {"baseline": task.baseline, "models": found.data(), "claims": plain(claims)}
        shown = table(["layers x units", "parameters", "median loss", "of all seeds"], rows)
        return Result(summary(heading, shown, claims), data, {"depth": found.draw})

    def _model(self, characters: int, depth: int, width: int) -> nn.Module:
        return LanguageModel(characters, self.embedding_size, width, cell=self.cell, num_layers=depth)


def _range(errors: list[float]) -> str:
    return f"{min(errors):.3f} to {max(errors):.3f}"


def _size_claim() -> Claim:
    """About the text's own two networks."""
    with torch.device("meta"):
        shallow, deep = [count(recurrent_layer("rnn", 10, H, num_layers=L)) for H, L in ((128, 1), (64, 4))]
    return Claim(
        "an RNN of 1 layer of 128 and one of 4 layers of 64 (10 inputs) have similar parameter counts",
        abs(deep - shallow) <= EQUAL * shallow,
        f"{shallow:,} and {deep:,}, {deep / shallow - 1:+.0%}",
    )


def _depth_claims(found: Comparison, names: dict[int, str]) -> list[Claim]:
    """Each greater depth against the least; better or worse means that the seeds' ranges do not meet."""
    least = min(names)
    shallow = found.errors(names[least])
    if len(names) < 2:
        return []
    told, better = [], []
    for depth in sorted(names)[1:]:
        errors = found.errors(names[depth])
        if max(errors) < min(shallow):
            told.append(f"{depth} layers are better")
            better.append(depth)
        elif min(errors) > max(shallow):
            told.append(f"{depth} layers are worse")
        else:
            told.append(f"{depth} layers make no difference beyond the seeds'")
    measured = f"beside {least} layer{'s' * (least > 1)} of as many parameters, {', '.join(told)}"
    return [
        Claim(
            "stacking layers gives better, hierarchical representations", len(better) == len(names) - 1, measured
        )
    ]


__all__ = ["EQUAL", "DepthExperiment", "width_for"]
