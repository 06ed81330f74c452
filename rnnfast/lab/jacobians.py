"""Products of step Jacobians: why gradients vanish or explode."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .._program import Program, Result, setting
from ..initialization import gaussian_
from ..models import recurrent_layer
from .comparison import significant
from .figures import band, panels
from .flow import factor_per_step
from .report import Claim, plain, summary, table
from .training import one_thread

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class JacobianProducts:
    """Norms of products of step Jacobians, as logarithms to base 10, so that no distance is too far.

    Args:
        frobenius: log10 of the Frobenius norm for products of 0, 1, 2, ... Jacobians; of none it is the identity.
        largest: log10 of the largest singular value, likewise.
    """

    frobenius: list[float]
    largest: list[float]

    @property
    def per_step(self) -> float:
        """The factor that a step multiplies the norm by, see :func:`rnnfast.lab.flow.factor_per_step`."""
        return factor_per_step([v * math.log(10) for v in self.frobenius])

    def draw(self) -> Figure:
        """Both against the distance."""
        figure, (axes,) = panels()
        axes.plot(self.frobenius, label="Frobenius norm")
        axes.plot(self.largest, label="largest singular value")
        axes.set(xlabel="distance (steps)", ylabel="log10 of the product of step Jacobians")
        axes.legend()
        return figure


def jacobian_products(w_hh: Tensor, states: Tensor | None = None, *, steps: int | None = None) -> JacobianProducts:
    r"""Norm and largest singular value of d h_T / d h_{T-k} of an Elman RNN, for k = 0, 1, ...

    .. math::
        \frac{\partial h_T}{\partial h_{T-k}} = J_T J_{T-1} \cdots J_{T-k+1}, \qquad
        J_t = \operatorname{diag}(1 - h_t^2) W_{hh}

    (Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", arXiv:1211.5063.) The
    derivative of tanh belongs to the step's own state :math:`h_t`, not to the one before it.

    Args:
        w_hh: (H, H), best in float64.
        states: h_1 to h_T, (T, H), of one sequence; without them the factor of tanh is left out, and the product
            is a power of W_hh.
        steps: the longest distance; T where there are states.

    Raises:
        ValueError: for shapes that do not fit, or neither states nor steps.

    Example:
        >>> products = jacobian_products(0.5 * torch.eye(4), steps=2)
        >>> [round(10**v, 3) for v in products.largest]
        [1.0, 0.5, 0.25]
    """
    if w_hh.dim() != 2 or w_hh.size(0) != w_hh.size(1):
        raise ValueError(f"w_hh: got shape {tuple(w_hh.shape)}, expected (H, H)")
    if states is not None and (states.dim() != 2 or states.size(1) != w_hh.size(0)):
        raise ValueError(f"states: got shape {tuple(states.shape)}, expected (T, {w_hh.size(0)})")
    available = None if states is None else len(states)
    steps = available if steps is None else steps
    if steps is None or steps < 0 or (available is not None and steps > available):
        raise ValueError(
            f"steps: got {steps}, expected 0 or more" + ("" if available is None else f", at most {available}")
        )
    w = w_hh.detach()
    product, scale = torch.eye(len(w), dtype=w.dtype, device=w.device), 0.0
    found = JacobianProducts([], [])
    for k in range(steps + 1):
        if k > 0:
            h = None if states is None else states[-k].detach()
            product = product @ (w if h is None else (1 - h**2).unsqueeze(1) * w)
        singular = torch.linalg.svdvals(product)
        norm = torch.linalg.vector_norm(singular)
        found.frobenius.append(scale + float(norm.log10()))
        found.largest.append(scale + float(singular[0].log10()))
        product, scale = product / (norm if norm > 0 else 1), found.frobenius[-1]
    return found


@dataclass(frozen=True)
class JacobiansExperiment(Program):
    """Why do gradients vanish or explode?

    W_hh is Gaussian with standard deviation scale / sqrt(H), its spectral radius about `scale`; states are those
    of a tanh RNN with that matrix over inputs of variance 1.
    """

    section: ClassVar[str] = "Why Gradients Vanish"
    examples: ClassVar[tuple[str, ...]] = ("--scales 0.9 1.0 1.1 3.0 --steps 300",)

    scales: tuple[float, ...] = setting((0.5, 1.0, 1.5), "spectral radii of W_hh", least=0)
    seeds: int = setting(3, "of weights and inputs", least=1)
    hidden_size: int = setting(100, "units", least=1)
    steps: int = setting(100, "the longest distance", least=1)
    input_size: int = setting(10, "features of the input that drives the states", least=1)

    def run(self) -> Result:
        """Measures all scales, with and without the derivative of tanh."""
        bare: dict[float, list[JacobianProducts]] = {scale: [] for scale in self.scales}
        driven: dict[float, list[JacobianProducts]] = {scale: [] for scale in self.scales}
        with one_thread():
            for scale in self.scales:
                for seed in range(self.seed, self.seed + self.seeds):
                    w_hh, states = self._drawn(scale, seed)
                    bare[scale].append(jacobian_products(w_hh, steps=self.steps))
                    driven[scale].append(jacobian_products(w_hh, states))
        claims = _claims(bare, driven)
        heading = (
            f"Product of k step Jacobians, H = {self.hidden_size}, {self.seeds} seeds: medians of the factor that "
            f"a step multiplies its norm by, and of norm and largest singular value at k = {self.steps}."
        )
        data = {
            "products": [
                {
                    "scale": scale,
                    "tanh": tanh,
                    "log10_frobenius": [[round(v, 4) for v in p.frobenius] for p in of[scale]],
                    "log10_largest": [[round(v, 4) for v in p.largest] for p in of[scale]],
                    "per_step": [significant(p.per_step) for p in of[scale]],
                }
                for scale in self.scales
                for tanh, of in ((False, bare), (True, driven))
            ],
            "claims": plain(claims),
        }
        return Result(
            summary(heading, _table(bare, driven), claims), data, {"jacobians": partial(_draw, bare, driven)}
        )

    def _drawn(self, scale: float, seed: int) -> tuple[Tensor, Tensor]:
        """W_hh and the states of an RNN that has it, over random inputs."""
        torch.manual_seed(seed)
        layer = gaussian_(recurrent_layer("rnn", self.input_size, self.hidden_size), scale)
        layer = layer.to(self.device, torch.float64)
        x = torch.randn(1, self.steps, self.input_size, dtype=torch.float64).to(self.device)
        with torch.no_grad():
            states, _ = layer(x)
        return layer.weight_hh_l0.detach(), states[0]


def _at_end(products: list[JacobianProducts]) -> float:
    """The median of log10 of the norm at the longest distance."""
    return statistics.median(p.frobenius[-1] for p in products)


def _table(bare: dict[float, list[JacobianProducts]], driven: dict[float, list[JacobianProducts]]) -> str:
    rows = [
        [
            f"{scale:g}, {'with' if of is driven else 'without'} tanh'",
            f"{statistics.median(p.per_step for p in of[scale]):.3f}",
            f"10^{_at_end(of[scale]):.1f}",
            f"10^{statistics.median(p.largest[-1] for p in of[scale]):.1f}",
        ]
        for scale in bare
        for of in (bare, driven)
    ]
    return table(["spectral scale", "factor a step", "norm", "largest singular value"], rows)


def _claims(bare: dict[float, list[JacobianProducts]], driven: dict[float, list[JacobianProducts]]) -> list[Claim]:
    claims = []
    small, large = [s for s in bare if s < 1], [s for s in bare if s > 1]
    for scales, does, sign in ((small, "vanishes", -1), (large, "explodes", 1)):
        if scales:
            each = [sign * (p.frobenius[-1] - p.frobenius[0]) for s in scales for p in bare[s]]
            ends = ", ".join(f"10^{_at_end(bare[s]):.1f} at scale {s:g}" for s in scales)
            scale = "below" if sign < 0 else "above"
            claims.append(Claim(f"without tanh' the product {does} at scales {scale} 1", min(each) > 1, ends))
    if large:
        growth = {s: (_at_end(bare[s]), _at_end(driven[s])) for s in large}
        same = all(with_tanh > 0.9 * without for without, with_tanh in growth.values())
        ends = ", ".join(
            f"10^{with_tanh:.1f} instead of 10^{without:.1f} at scale {s:g}"
            for s, (without, with_tanh) in growth.items()
        )
        claims.append(Claim("the experiment may ignore the derivative of tanh", same, f"with it {ends}"))
    return claims


def _draw(bare: dict[float, list[JacobianProducts]], driven: dict[float, list[JacobianProducts]]) -> Figure:
    figure, axes = panels(1, 2, sharey=True)
    for quantity, panel in zip(("frobenius", "largest"), axes, strict=True):
        for i, scale in enumerate(bare):
            for of, style, name in ((bare, "--", "without tanh'"), (driven, "-", "with tanh'")):
                curves = [getattr(p, quantity) for p in of[scale]]
                band(panel, range(len(curves[0])), curves, f"{scale:g} {name}", color=f"C{i}", linestyle=style)
        panel.axhline(0, color="0.3", linewidth=0.8)
        panel.set(xlabel="distance k (steps)")
    axes[0].set(title="Frobenius norm", ylabel="product of k step Jacobians, log10")
    axes[1].set(title="largest singular value")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, title="spectral scale"
    )
    return figure


__all__ = ["JacobianProducts", "JacobiansExperiment", "jacobian_products"]
