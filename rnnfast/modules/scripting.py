"""TorchScript: what torch.jit.script sees in place of a layer or cell, for it cannot read their own Python.

Padded or unbatched tensors only, without autocast, lengths and resets. A script calls the operator, so it trains,
and a saved one runs wherever rnnfast was imported. Cells become torch's own.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _library
from .base import RecurrentLayer
from .cells import GRUCell, LSTMCell, RNNCell
from .layers import GRU, LSTM, RNN


def _all_layers(
    x: Tensor,
    weights: list[Tensor],
    h0: Tensor | None,
    c0: Tensor | None,
    cell: str,
    layers: int,
    directions: int,
    biases: bool,
    projected: bool,
    batch_first: bool,
    dropout: float,
    clip: float | None,
) -> tuple[Tensor, list[Tensor]]:
    """Output, and h_n, of an LSTM c_n."""
    if x.dim() != 2 and x.dim() != 3:
        raise ValueError("input: got " + str(x.dim()) + " dimensions, expected 2 or 3")
    batched = x.dim() == 3
    if not batched:
        x = x.unsqueeze(0 if batch_first else 1)
        h0 = None if h0 is None else h0.unsqueeze(1)
        c0 = None if c0 is None else c0.unsqueeze(1)
    if x.size(1 if batch_first else 0) == 0:
        raise ValueError("input: got 0 steps, expected at least one")
    # Dropout masks are drawn time-major, as those of torch's layers are.
    transposed = batch_first and dropout > 0 and layers > 1
    if transposed:
        x, batch_first = x.transpose(0, 1), False
    for s in (h0, c0):
        if s is not None and s.size(0) != layers * directions:
            raise ValueError("hx: got " + str(s.size(0)) + " states, expected " + str(layers * directions))
    count = 2 + 2 * int(biases) + int(projected)  # weights of a direction
    h_n: list[Tensor] = []
    c_n: list[Tensor] = []
    for k in range(layers):
        own = weights[k * directions * count : (k + 1) * directions * count]
        if directions == 2:
            own = [torch.cat(own[::count]) if i == 0 else torch.stack(own[i::count]) for i in range(count)]
        h = None if h0 is None else h0[k * directions : (k + 1) * directions]
        c = None if c0 is None else c0[k * directions : (k + 1) * directions]
        results = torch.ops.rnnfast.recurrence(
            x,
            own[0],
            own[1],
            own[-1] if projected else None,
            own[2] if biases else None,
            own[3] if biases else None,
            h,
            c,
            cell,
            2 if directions == 2 else 0,
            batch_first,
            None,
            False,
            clip=clip,
        )
        x = results[0]
        if dropout > 0 and k < layers - 1:
            x = F.dropout(x, dropout, training=True)
        h_n.append(results[1])
        if cell == "lstm":
            c_n.append(results[2])
    if transposed:
        x, batch_first = x.transpose(0, 1), True
    last = [torch.cat(h_n)]
    if cell == "lstm":
        last.append(torch.cat(c_n))
    if not batched:
        x = x.squeeze(0 if batch_first else 1)
        last = [s.squeeze(1) for s in last]
    return x, last


class _OneState(RecurrentLayer):
    bptt_clip: float | None

    def forward(  # type: ignore[override]
        self, input: Tensor, hx: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Runs the layer over a padded or unbatched sequence."""
        if not torch.jit.is_scripting():
            return RecurrentLayer.forward(self, input, hx)
        output, last = _all_layers(
            input,
            self._flat_weights,
            hx,
            None,
            self._cell,
            self.num_layers,
            2 if self.bidirectional else 1,
            self.bias,
            False,
            self.batch_first,
            self.dropout if self.training else 0.0,
            self.bptt_clip,
        )
        return output, last[0]


class ScriptableRNN(_OneState, RNN):
    """An RNN that torch.jit.script can read."""


class ScriptableGRU(_OneState, GRU):
    """A GRU that torch.jit.script can read."""


class ScriptableLSTM(LSTM):
    """An LSTM that torch.jit.script can read, without layer normalisation."""

    bptt_clip: float | None

    @property
    def _cell(self) -> str:
        return "lstm"

    def forward(  # type: ignore[override]
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Runs the layer over a padded or unbatched sequence."""
        if not torch.jit.is_scripting():
            return RecurrentLayer.forward(self, input, hx)
        output, last = _all_layers(
            input,
            self._flat_weights,
            None if hx is None else hx[0],
            None if hx is None else hx[1],
            self._cell,
            self.num_layers,
            2 if self.bidirectional else 1,
            self.bias,
            self.proj_size > 0,
            self.batch_first,
            self.dropout if self.training else 0.0,
            self.bptt_clip,
        )
        return output, (last[0], last[1])


SCRIPTABLE: dict[type, type] = {
    RNN: ScriptableRNN,
    LSTM: ScriptableLSTM,
    GRU: ScriptableGRU,
    RNNCell: torch.nn.RNNCell,
    LSTMCell: torch.nn.LSTMCell,
    GRUCell: torch.nn.GRUCell,
}


def scriptable(module: Any) -> Any:
    """The same layer or cell, with the same parameters, in a form that torch.jit.script can read.

    Raises:
        TypeError: for a subclass or a parametrized one, unless it has a forward of its own, which is left to
            torch.jit.script.
        RuntimeError: where no kernels are built.
    """
    kind: Any = type(module)
    if kind not in SCRIPTABLE:
        ours: Any = next((base for base in SCRIPTABLE if isinstance(module, base)), None)
        if ours is None or kind.forward is not ours.forward:
            return module
        raise TypeError(
            f"torch.jit.script: got {kind.__name__}, expected rnnfast.{ours.__name__} itself, not derived from it "
            "or parametrized"
        )
    if _library.ISA is None:
        raise RuntimeError(f"torch.jit.script: got no compiled library. {_library.HOW_TO_BUILD}")
    if isinstance(module, RecurrentLayer):
        module._like_torchs("TorchScript")
    twin = copy.copy(module)
    twin.__class__ = SCRIPTABLE[kind]
    if isinstance(module, RecurrentLayer):
        twin.bptt_clip = module.bptt_clip  # TorchScript reads no attributes of classes
        twin._update_flat_weights()
    return twin


__all__ = ["SCRIPTABLE", "scriptable"]
