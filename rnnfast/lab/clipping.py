"""What clipping does to gradients, and to a network whose gradients explode."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from .._program import Program, Result, progress, setting
from ..initialization import gaussian_
from ..models import ReadoutRNN, recurrent_layer
from .comparison import Candidate, Comparison, compare, draw_losses, significant, thinned
from .figures import band, panels
from .report import Claim, plain, summary, table
from .tasks import CopyFirst

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NONE, GLOBAL, PER_STEP, BOTH = "no clipping", "global norm", "per step of BPTT", "both"


class Clipped(NamedTuple):
    """Norms of a whole gradient, before and after it was clipped."""

    before: float
    after: float


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Clipped:
    r"""Scales the gradients down so that together their norm is at most `max_norm`.

    .. math::
        g \leftarrow g \min(1, max\_norm / \lVert g \rVert)

    (Pascanu, Mikolov and Bengio, arXiv:1211.5063.) This is :func:`torch.nn.utils.clip_grad_norm_`, with the norm
    after it measured, not computed.

    Args:
        parameters: with gradients, which are changed.
        max_norm: the limit.

    Example:
        >>> layer = rnnfast.RNN(10, 32, batch_first=True)
        >>> layer(torch.randn(1, 100, 10))[0].sum().backward()
        >>> before, after = clip_gradients(layer.parameters(), 1.0)
        >>> before > 1, round(after, 3)
        (True, 1.0)
    """
    given = [p for p in parameters if p.grad is not None]
    before = nn.utils.clip_grad_norm_(given, max_norm)
    return Clipped(float(before), float(nn.utils.get_total_norm([p.grad for p in given if p.grad is not None])))


@dataclass(frozen=True)
class ClippingExperiment(Program):
    """Does clipping rescue a network whose gradients explode?

    A tanh RNN whose W_hh begins with a spectral radius above 1 learns to copy, by plain gradient descent: Adam
    divides by the size that gradients had before, and so is less easily thrown off (try `--optimizer adam`). The
    whole gradient's norm is limited, or dL/dh_t element by element at each step of BPTT (`bptt_clip` of rnnfast's
    layers), or both.
    """

    section: ClassVar[str] = "Solutions to Vanishing Gradients"
    examples: ClassVar[tuple[str, ...]] = ("--optimizer adam --rate 0.01", "--scale 1.0")

    scale: float = setting(1.5, "spectral radius of W_hh at the beginning", least=0)
    max_norm: float = setting(1.0, "of the whole gradient", least=0)
    bptt_clip: float = setting(0.001, "largest element of dL/dh_t", least=1e-12)
    optimizer: str = setting("sgd", "that trains", choices=("sgd", "adam"))
    rate: float = setting(0.03, "of training", least=0)
    seeds: int = setting(5, "runs of each", least=1)
    length: int = setting(50, "steps of a sequence", least=2)
    steps: int = setting(1200, "of training", least=1)
    hidden_size: int = setting(32, "units", least=1)

    def run(self) -> Result:
        """Trains with each kind of clipping."""
        bar = iter(progress(range(4 * self.seeds), "training", "run"))
        clip = {"clip": self.max_norm}
        found = compare(
            CopyFirst(self.length),
            {
                NONE: Candidate(self._model),
                GLOBAL: Candidate(self._model, clip),
                PER_STEP: Candidate(partial(self._model, self.bptt_clip)),
                BOTH: Candidate(partial(self._model, self.bptt_clip), clip),
            },
            seeds=range(self.seed, self.seed + self.seeds),
            device=self.device,
            done=lambda: next(bar, None),
            steps=self.steps,
            optimizer=self.optimizer,
            rate=self.rate,
            norms=True,
        )
        demonstration = self._demonstration()
        claims = [_claim(found, self.scale)]
        heading = (
            f"Copy-first, {self.length} steps, W_hh of spectral radius {self.scale:g}, {self.steps} steps of "
            f"{self.optimizer.upper()}, {self.seeds} seeds: medians of the gradient's norm before the global "
            f"limit of {self.max_norm:g} (within the limit per step of {self.bptt_clip:g}, where there is one)."
        )
        shown = (
            f"{_table(found)}\n\nAn untrained RNN of {self.hidden_size} units with torch's initial values, loss "
            f"the sum of all outputs of 100 steps: norm {demonstration.before:.4g} before, "
            f"{demonstration.after:.4g} after the limit."
        )
        data: dict[str, Any] = {
            "runs": {
                name: numbers | {"norms": [list(map(significant, thinned(r.norms))) for r in found.runs[name]]}
                for name, numbers in found.data().items()
            },
            "demonstration": demonstration._asdict(),
            "claims": plain(claims),
        }
        return Result(summary(heading, shown, claims), data, {"clipping": partial(draw, found, self.max_norm)})

    def _model(self, bptt_clip: float | None = None) -> nn.Module:
        model = ReadoutRNN(1, self.hidden_size, 1)
        layer: Any = model.rnn
        gaussian_(layer, self.scale)
        layer.bptt_clip = bptt_clip
        return model

    def _demonstration(self) -> Clipped:
        """Norms of the text's own example."""
        torch.manual_seed(self.seed)
        layer = recurrent_layer("rnn", 10, self.hidden_size).to(self.device)
        layer(torch.randn(1, 100, 10).to(self.device))[0].sum().backward()
        return clip_gradients(layer.parameters(), self.max_norm)


def _table(found: Comparison) -> str:
    rows = []
    for name, runs in found.runs.items():
        norms = [[run.norms[0] for run in runs], [statistics.median(run.norms) for run in runs]]
        norms.append([max(run.norms) for run in runs])
        row = [name, *(f"{statistics.median(of):.3g}" for of in norms)]
        rows.append([*row, f"{found.error(name):.3f}", f"{found.solved(name):.0%}"])
    return table(["", "first norm", "median norm", "largest norm", "error", "solved"], rows)


def _claim(found: Comparison, scale: float) -> Claim:
    told = [f"{name} {found.error(name):.3f} ({found.solved(name):.0%})" for name in found.runs]
    return Claim(
        "gradients that grow make training unstable, and clipping helps",
        max(found.error(GLOBAL), found.error(PER_STEP)) <= 0.5 * found.error(NONE),
        f"from spectral radius {scale:g}, median error (and seeds that solve the task): {', '.join(told)}",
    )


def draw(found: Comparison, max_norm: float) -> Figure:
    """Norms of the gradient and losses in training."""
    figure, (norms, losses) = panels(2, 1, height=6.0, sharex=True)
    for name, runs in found.runs.items():
        steps = min(len(run.norms) for run in runs)
        curves = [thinned([v if math.isfinite(v) else math.nan for v in run.norms[:steps]]) for run in runs]
        size = steps / len(curves[0])
        band(norms, [size * (i + 0.5) for i in range(len(curves[0]))], curves, name)
        draw_losses(losses, runs, name)
    norms.axhline(max_norm, color="0.3", linestyle="--", linewidth=1, label="global limit")
    norms.set(yscale="log", ylabel="norm of the gradient,\nbefore the global limit")
    losses.set(yscale="log", xlabel="training step", ylabel=f"loss ({found.task.unit})")
    figure.legend(*norms.get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize="small")
    return figure


__all__ = ["Clipped", "ClippingExperiment", "clip_gradients"]
