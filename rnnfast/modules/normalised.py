"""Layer normalisation within an LSTM (Ba, Kiros and Hinton, arXiv:1607.06450, equations 20 to 22)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import init

from .. import ops
from ._common import weight

CELL = "layer_norm_lstm"
GAIN_IH, GAIN_HH, GAIN_C, BIAS_C = "norm_ih", "norm_hh", "norm_c", "norm_c_bias"


def _suffixes(layer: Any) -> list[str]:
    """Of each recurrence's parameters, as torch has them."""
    directions = ["", "_reverse"] if layer.bidirectional else [""]
    return [f"_l{k}{direction}" for k in range(layer.num_layers) for direction in directions]


def add_parameters(layer: Any) -> None:
    """Gains of W_ih x and W_hh h, (4 H), a gain and a bias of c, (H), for each layer and direction."""
    H, like = layer.hidden_size, layer.weight_hh_l0
    for suffix in _suffixes(layer):
        for name, size in ((GAIN_IH, 4 * H), (GAIN_HH, 4 * H), (GAIN_C, H), (BIAS_C, H)):
            given = None if name == BIAS_C and not layer.bias else torch.nn.Parameter(like.new_empty(size))
            layer.register_parameter(name + suffix, given)
    reset_parameters(layer)


def reset_parameters(layer: Any) -> None:
    """Gains 1, biases 0."""
    for suffix in _suffixes(layer):
        for name in (GAIN_IH, GAIN_HH, GAIN_C):
            init.ones_(getattr(layer, name + suffix))
        if layer.bias:
            init.zeros_(getattr(layer, BIAS_C + suffix))


def _gates_and_vector(
    layer: Any, k: int, x: Tensor, w_ih: Tensor | None, b_ih: Tensor | None, b_hh: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What layer k's recurrence takes for x and for b_hh: N(W_ih x) gain + b_ih + b_hh, (T, B, G, 4 H), and
    gains and biases, (G, 6 H), as csrc/cells/layer_norm_lstm.h has them. Without w_ih x is W_ih x.
    """
    directions = 2 if layer.bidirectional else 1
    suffixes = _suffixes(layer)[k * directions : (k + 1) * directions]

    def of_directions(name: str) -> Tensor:
        return torch.stack([weight(layer, name + suffix) for suffix in suffixes]).to(x.dtype)

    gain_ih, gain_hh, gain_c = [of_directions(name) for name in (GAIN_IH, GAIN_HH, GAIN_C)]
    bias_c = of_directions(BIAS_C) if layer.bias else torch.zeros_like(gain_c)
    bias = None if b_ih is None or b_hh is None else (b_ih + b_hh).view(directions, -1)
    gates = x if w_ih is None else F.linear(x, w_ih).unflatten(-1, gain_ih.shape)
    size = gain_ih.shape[1:]
    if directions == 1:
        gates = F.layer_norm(gates, size, gain_ih[0], None if bias is None else bias[0])
    else:
        gates = F.layer_norm(gates, size) * gain_ih
        gates = gates if bias is None else gates + bias
    return gates.to(x.dtype), torch.cat([gain_hh, gain_c, bias_c], 1)  # on CUDA autocast normalises in float32


def recurrence(layer: Any, k: int, x: Tensor, weights: tuple[Any, ...], h0: Any, c0: Any, options: Any) -> Any:
    """What :func:`rnnfast.ops.recurrence` gives for layer k; options: what that takes from `cell` on."""
    w_ih, w_hh, _, b_ih, b_hh = weights
    gates, vector = _gates_and_vector(layer, k, x, w_ih, b_ih, b_hh)
    y, *others = ops.recurrence(gates, None, w_hh, None, None, vector, h0, c0, *options)
    return [y.flatten(-2), *others]


__all__ = ["CELL", "add_parameters", "recurrence", "reset_parameters"]
