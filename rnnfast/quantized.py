"""Layers for inference with weights of 8 bits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import _library
from .modules import GRU, LSTM, RNN
from .modules._common import autocast_dtype
from .modules.options import Options
from .reference import GATES

LARGEST = 127
BLOCK = 16  # units whose weights lie together: int8::kBlock of csrc/cpu/int8.h


def quantize_weights(module: nn.Module) -> nn.Module:
    r"""Layers with weights of 8 bits, for inference: a quarter of the memory, and quicker to read.

    A weight is rounded to :math:`w_{ij} \approx s_i q_{ij}`, q an integer of at most 127, with a scale for each
    row. Inputs and states stay float32; where they are multiplied a row of them is rounded to 16 bits, by its
    largest value. Biases are kept as they are. Nothing needs to be calibrated.

    Args:
        module: an RNN, LSTM or GRU, rnnfast's or :mod:`torch.nn`'s, with float32 weights on the CPU; or a model,
            in which every one of them is replaced, in place.

    Returns:
        The layer with rounded weights, a new one, which takes and returns what the given one does; or the model.
        Weights are buffers, and no gradient flows.

    Raises:
        TypeError: for something else than a module.
        ValueError: for a layer whose weights are not float32 on the CPU, or not finite.

    Example:
        >>> layer = rnnfast.LSTM(64, 128)
        >>> small = rnnfast.quantize_weights(layer)
        >>> x = torch.randn(10, 1, 64)
        >>> bool((small(x)[0] - layer(x)[0]).abs().max() < 0.05)
        True
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: got {type(module).__name__}, expected a torch.nn.Module")
    if type(module) in QUANTIZED:
        return QUANTIZED[type(module)](module)
    for name, child in module.named_children():
        setattr(module, name, quantize_weights(child))
    return module


def rounded(w: Tensor, gates: int) -> tuple[Tensor, Tensor]:
    """Weights (G, gates * units, K) as integers and their scales, in the order of csrc/cpu/int8.h."""
    G, rows, K = w.shape
    units = rows // gates
    scales = w.abs().amax(2, keepdim=True) / LARGEST
    q = (w / scales.clamp_min(torch.finfo(w.dtype).tiny)).round().to(torch.int8)
    more = -units % BLOCK
    q = F.pad(q.view(G, gates, units, K), (0, K % 2, 0, more)).view(G, gates, -1, BLOCK, (K + 1) // 2, 2)
    scales = F.pad(scales.view(G, gates, units), (0, more)).view(G, gates, -1, BLOCK)
    return q.permute(0, 2, 4, 1, 3, 5).contiguous(), scales.transpose(1, 2).contiguous()


class _Quantized:
    """What takes the place of a layer's weights: the base, beside the layer's own class, of a quantized one."""

    def __init__(self: Any, layer: Any) -> None:
        nn.Module.__init__(self)
        if isinstance(layer, Options):
            layer._like_torchs("a layer with weights of 8 bits")
        wrong = [
            f"{name}: got {p.dtype} on {p.device}"
            for name, p in layer.named_parameters()
            if p.dtype != torch.float32 or p.device.type != "cpu"
        ]
        if wrong:
            raise ValueError(f"{wrong[0]}, expected float32 on the CPU")
        for name in ("mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional"):
            setattr(self, name, getattr(layer, name))
        self.proj_size, self.dropout = layer.proj_size, 0.0
        self._forget_parameters()
        if isinstance(self, RNN):
            self.nonlinearity = layer.nonlinearity
        directions = 2 if layer.bidirectional else 1
        for k in range(layer.num_layers):
            of_layer = layer.all_weights[k * directions : (k + 1) * directions]
            self._take_weights(k, [torch.stack(w).detach() for w in zip(*of_layer, strict=True)])
        self.train(layer.training)

    def _forget_parameters(self: Any) -> None:
        """RNNBase keeps lists of parameters, of which there are none."""
        none: list[Any] = []
        self._flat_weights_names, self._all_weights = none, none.copy()
        self._init_flat_weights()

    def __setstate__(self: Any, state: dict[str, Any]) -> None:
        nn.Module.__setstate__(self, state)
        self._forget_parameters()

    def _take_weights(self: Any, k: int, weights: list[Tensor]) -> None:
        names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if self.bias else [])]
        names += ["weight_hr"] if self.proj_size else []
        for name, w in zip(names, weights, strict=True):
            if not w.isfinite().all():
                raise ValueError(f"{name}_l{k}: got values that are not finite")
            if name.startswith("bias"):
                self.register_buffer(f"{name}_l{k}", w)
                continue
            q, scales = rounded(w, 1 if name == "weight_hr" else GATES[self._cell])
            self.register_buffer(f"{name}_l{k}", q)
            self.register_buffer(f"{name}_l{k}_scale", scales)

    def _check(self: Any, input: Tensor, h0: Tensor | None, c0: Tensor | None, batch_sizes: Tensor | None) -> None:
        if input.device.type != "cpu" or not _library.serves(input):
            raise RuntimeError(f"input: got one on {input.device}, expected one on a CPU with rnnfast's kernels")
        if input.dtype != torch.float32 and autocast_dtype(input) is None:
            raise ValueError(f"input: got {input.dtype}, expected float32, as quantized layers take")
        if input.size(-1) != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.size(-1)}"
            )
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (input, h0, c0)):
            raise RuntimeError("input, hx: got one that requires a gradient, but quantized layers have none")
        if h0 is not None:
            self._check_states(input, h0, c0, batch_sizes)

    _takes_stretches = False

    def _run(
        self: Any,
        x: Tensor,
        h0: Tensor | None,
        c0: Tensor | None,
        batch_first: bool,
        batch_sizes: Tensor | None,
        collected: list[Any] | None = None,
        batch: Any = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if collected is not None:
            raise ValueError("all_states: got True, expected False of a quantized layer")
        dtype = autocast_dtype(x) or x.dtype
        x, h0, c0 = [None if t is None else t.float() for t in (x, h0, c0)]
        directions = 2 if self.bidirectional else 1
        last = []
        for k in range(self.num_layers):
            own = slice(k * directions, (k + 1) * directions)
            h, c = [None if s is None else s[own] for s in (h0, c0)]
            matrices = [
                [getattr(self, f"{name}_l{k}"), getattr(self, f"{name}_l{k}_scale")]
                if name != "weight_hr" or self.proj_size
                else []
                for name in ("weight_ih", "weight_hh", "weight_hr")
            ]
            biases = [getattr(self, f"{name}_l{k}") if self.bias else None for name in ("bias_ih", "bias_hh")]
            x, *states = torch.ops.rnnfast.recurrence_int8(
                x,
                *matrices,
                *biases,
                h,
                c,
                self._cell,
                self.hidden_size,
                self.proj_size or self.hidden_size,
                2 * (directions - 1),
                batch_first,
                batch_sizes,
            )
            last.append(states)
        h_n, *c_n = [torch.cat(states).to(dtype) for states in zip(*last, strict=True)]
        return x.to(dtype), h_n, c_n[0] if c_n else None


class QuantizedRNN(_Quantized, RNN):
    """What :func:`quantize_weights` makes of an RNN."""


class QuantizedLSTM(_Quantized, LSTM):
    """What :func:`quantize_weights` makes of an LSTM."""


class QuantizedGRU(_Quantized, GRU):
    """What :func:`quantize_weights` makes of a GRU."""


QUANTIZED = {
    nn.RNN: QuantizedRNN,
    RNN: QuantizedRNN,
    nn.LSTM: QuantizedLSTM,
    LSTM: QuantizedLSTM,
    nn.GRU: QuantizedGRU,
    GRU: QuantizedGRU,
}

__all__ = ["quantize_weights"]
