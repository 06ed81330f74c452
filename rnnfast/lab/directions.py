"""Both directions against one, where the answer depends on what comes later."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import nn

from .._program import Program, Result, UserError, progress, setting
from ..models import CELLS, ReadoutRNN
from .comparison import Comparison, compare, count
from .depth import width_for
from .report import Claim, plain, summary, table
from .tasks import Smoothing

BOTH, ONE, LATER = "both directions", "one direction", "one direction, answers later"


@dataclass(frozen=True)
class DirectionsExperiment(Program):
    """Does a second direction help where the answer lies in the future?

    At each step the scaled mean of the values around it is asked for. What one direction can reach at best is
    known. Beside it stands one direction that may answer once all has been seen: a target delay (Graves and
    Schmidhuber, "Framewise phoneme classification with bidirectional LSTM", Neural Networks 18, 2005).
    """

    section: ClassVar[str] = "Bidirectional RNNs"
    examples: ClassVar[tuple[str, ...]] = ("--cell lstm --reach 8 --length 60",)

    cell: str = setting("rnn", "of the layers", choices=CELLS)
    reach: int = setting(4, "values on either side that the answer depends on", least=1)
    hidden_size: int = setting(32, "units of each of two directions", least=4)
    seeds: int = setting(3, "runs of each model", least=1)
    length: int = setting(40, "steps of a sequence", least=3)
    steps: int = setting(1000, "of training", least=1)
    batch_size: int = setting(32, "sequences a step", least=1)
    rate: float = setting(0.005, "of Adam", least=0)

    def run(self) -> Result:
        """Trains all three."""
        if self.length <= 2 * self.reach:
            raise UserError(f"--length: got {self.length}, expected more than twice --reach, {2 * self.reach}")
        now, later = [Smoothing(self.length, self.reach, delay) for delay in (0, self.reach)]
        both = partial(ReadoutRNN, 1, self.hidden_size, 1, cell=self.cell, bidirectional=True)
        try:
            width = width_for(self._one, count(both()))
        except ValueError as error:
            raise UserError(f"--hidden-size: got {self.hidden_size}; {error} (one direction)") from None
        one = partial(self._one, width)
        bar = iter(progress(range(3 * self.seeds), "training", "run"))
        options: dict[str, Any] = dict(
            seeds=range(self.seed, self.seed + self.seeds),
            device=self.device,
            done=lambda: next(bar, None),
            steps=self.steps,
            batch_size=self.batch_size,
            rate=self.rate,
        )
        found = compare(now, {BOTH: both, ONE: one}, **options)
        delayed = compare(later, {LATER: one}, **options)
        found = Comparison(now, found.runs | delayed.runs, found.parameters | delayed.parameters)
        claims = [_claim(found, now.causal_floor)]
        heading = (
            f"Scaled mean of the values {self.reach} steps on either side, {self.cell}; {self.steps} steps of "
            f"Adam, {self.seeds} seeds. Held-out {now.unit}; of answers 0 it is 1, and without the future at "
            f"least {now.causal_floor:.3f}."
        )
        rows = [
            [name, f"{found.parameters[name]:,}", f"{found.error(name):.4f}", f"{max(found.errors(name)):.4f}"]
            for name in found.runs
        ]
        data = {"causal_floor": now.causal_floor, "models": found.data(), "claims": plain(claims)}
        shown = table(["", "parameters", "median error", "worst"], rows)
        if max(found.errors(LATER)) < now.causal_floor:
            shown += f"\n\nOne direction does as much where the answer may wait {self.reach} steps."
        floors = {"least without the future": now.causal_floor}
        return Result(summary(heading, shown, claims), data, {"directions": partial(found.draw, floors)})

    def _one(self, width: int) -> nn.Module:
        return ReadoutRNN(1, width, 1, cell=self.cell)


def _claim(found: Comparison, floor: float) -> Claim:
    both, one = found.errors(BOTH), found.errors(ONE)
    measured = f"{max(both):.3f} at worst beside {min(one):.3f} at best with one direction of as many parameters"
    return Claim(
        "where future context matters, looking both ways helps", max(both) < floor <= 1.02 * min(one), measured
    )


__all__ = ["DirectionsExperiment"]
