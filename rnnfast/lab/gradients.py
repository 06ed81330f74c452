"""Gradients that travel back through time, of each kind of cell."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from .._program import Program, Result, setting
from ..initialization import chrono_, forget_bias_, orthogonal_
from ..models import recurrent_layer
from .comparison import significant
from .contributions import Contributions, weight_contributions
from .figures import band, panels
from .flow import GradientFlow, gradient_flow
from .report import Claim, plain, summary, table
from .training import one_thread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A gradient that has vanished: less than this of it is left at the end.
VANISHED = 1e-3
LAST = 10  # steps whose share of the gradient is told

_LAYERS: dict[str, tuple[str, Any]] = {
    "rnn": ("rnn", None),
    "lstm": ("lstm", None),
    "gru": ("gru", None),
    "rnn-orthogonal": ("rnn", lambda layer, T: orthogonal_(layer)),
    "lstm-forget-1": ("lstm", lambda layer, T: forget_bias_(layer, 1.0)),
    "lstm-chrono": ("lstm", chrono_),
    "gru-chrono": ("gru", chrono_),
}


@dataclass(frozen=True)
class GradientFlowExperiment(Program):
    """How much of a gradient is left after it has gone back through time?

    Layers as they are before training, in float64, over random inputs. Measured are the norm of the gradient of
    one unit's output at each step by the input at step 0, and of each step's contribution to the gradient of
    W_hh for a loss at the last step.
    """

    section: ClassVar[str] = "Backpropagation Through Time"
    examples: ClassVar[tuple[str, ...]] = ("--length 200 --layers lstm lstm-forget-1 lstm-chrono",)

    layers: tuple[str, ...] = setting(
        ("rnn", "lstm", "gru", "rnn-orthogonal", "lstm-chrono", "gru-chrono"),
        "to compare",
        choices=tuple(_LAYERS),
        metavar="NAME",
    )
    seeds: int = setting(5, "of weights and inputs", least=1)
    length: int = setting(50, "steps", least=3)
    input_size: int = setting(10, "features of the input", least=1)
    hidden_size: int = setting(32, "units", least=1)

    def run(self) -> Result:
        """Measures all layers."""
        flows: dict[str, list[GradientFlow]] = {name: [] for name in self.layers}
        parts: dict[str, list[Contributions]] = {name: [] for name in self.layers}
        with one_thread():
            for name in self.layers:
                for seed in range(self.seed, self.seed + self.seeds):
                    layer, x = self._drawn(name, seed)
                    flows[name].append(gradient_flow(layer, x))
                    parts[name].append(weight_contributions(layer, x, lambda output, _: output[:, -1, 0].sum()))
        claims = _claims(flows)
        heading = (
            f"Gradient of one unit's output at step t by the input at step 0, t up to {self.length - 1}, and "
            f"contributions of the steps to dL/dW_hh, L one unit's last output; {self.seeds} seeds, medians."
        )
        data = {
            "layers": {
                name: {
                    "norms": [[significant(v) for v in flow.norms] for flow in flows[name]],
                    "ratio": [flow.ratio for flow in flows[name]],
                    "per_step": [flow.per_step for flow in flows[name]],
                    "contributions": [[significant(v) for v in p.norms["weight_hh_l0"]] for p in parts[name]],
                }
                for name in self.layers
            },
            "claims": plain(claims),
        }
        figures = {"gradient-flow": partial(_draw_flows, flows), "contributions": partial(_draw_parts, parts)}
        return Result(summary(heading, _table(flows, parts), claims), data, figures)

    def _drawn(self, name: str, seed: int) -> tuple[Any, torch.Tensor]:
        """A new layer and its input, (1, T, I)."""
        torch.manual_seed(seed)
        cell, change = _LAYERS[name]
        layer = recurrent_layer(cell, self.input_size, self.hidden_size)
        if change is not None:
            change(layer, self.length)
        x = torch.randn(1, self.length, self.input_size, dtype=torch.float64)
        return layer.to(self.device, torch.float64), x.to(self.device)


def _ratio(flows: list[GradientFlow]) -> float:
    return statistics.median(flow.ratio for flow in flows)


def _table(flows: dict[str, list[GradientFlow]], parts: dict[str, list[Contributions]]) -> str:
    rows = [
        [
            name,
            f"{_ratio(of):.1e}",
            f"{statistics.median(flow.per_step for flow in of):.3f}",
            f"{statistics.median(p.share_of_last(LAST) for p in parts[name]):.1%}",
        ]
        for name, of in flows.items()
    ]
    return table(["", "norm at the end / at step 0", "factor a step", f"dW_hh: share of last {LAST} steps"], rows)


def _claims(flows: dict[str, list[GradientFlow]]) -> list[Claim]:
    claims = []
    if "rnn" in flows:
        left = max(flow.ratio for flow in flows["rnn"])
        claims.append(
            Claim(
                "in a vanilla RNN gradients shrink with distance", left < VANISHED, f"at most {left:.1e} is left"
            )
        )
    gated = [name for name in ("lstm", "gru") if name in flows]
    if gated:
        left = min(_ratio(flows[name]) for name in gated)
        measured = ", ".join(f"of {name}'s {_ratio(flows[name]):.1e} is left" for name in gated)
        changed = [name for name in ("lstm-forget-1", "lstm-chrono", "gru-chrono") if name in flows]
        if changed:
            measured += " with torch's initial values; " + ", ".join(
                f"of {n}'s {_ratio(flows[n]):.1e}" for n in changed
            )
        claims.append(Claim("gated architectures (LSTM, GRU) solve this", left >= VANISHED, measured))
    return claims


def _draw_flows(flows: dict[str, list[GradientFlow]]) -> Figure:
    figure, (axes,) = panels()
    for name, of in flows.items():
        band(axes, range(len(of[0].norms)), [flow.norms for flow in of], name)
    axes.set(yscale="log", xlabel="step t: distance from the input", ylabel="norm of d out_t / d x_0, one unit")
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _draw_parts(parts: dict[str, list[Contributions]]) -> Figure:
    figure, (axes,) = panels()
    for name, of in parts.items():
        # At step 0 the state is zero, and so is what it adds.
        norms = [p.norms["weight_hh_l0"][1:] for p in of]
        band(axes, range(1, len(norms[0]) + 1), norms, name)
    axes.set(yscale="log", xlabel="step t", ylabel="norm of the step's part of dL/dW_hh")
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


__all__ = ["GradientFlowExperiment"]
