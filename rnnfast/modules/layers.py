"""Recurrent layers: :class:`torch.nn.RNN` and its kin on rnnfast's kernels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .. import ops
from ._common import autocast_dtype, cast, weight


class RecurrentLayer(torch.nn.RNNBase):
    """A stack of recurrences over a sequence: everything but the recurrence itself.

    Subclasses :class:`torch.nn.RNNBase`, not ``torch.nn.RNN``: ``torch.compile(fullgraph=True)`` refuses modules
    that pass ``isinstance(m, nn.RNN)``. Parameters, their names, initial values and order are torch's.
    """

    def _recurrence(
        self,
        x: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        h0: Tensor | None,
        direction: int,
        batch_first: bool,
        batch_sizes: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """One layer; returns output and h_n."""
        raise NotImplementedError

    def flatten_parameters(self) -> None:
        """Does nothing: weights stay separate tensors. Kept because code written for torch's layers calls it."""

    def forward(self, input: Any, hx: Tensor | None = None) -> Any:
        """Runs the layer over a padded, unbatched or packed sequence; see the class for shapes."""
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        if input.dim() != 3:
            return self._forward_unbatched(input, hx)
        if hx is not None and hx.dim() != 3:
            raise RuntimeError(f"For batched 3-D input, hx should also be 3-D but got {hx.dim()}-D tensor")
        self._check(input, hx, None)
        if input.size(1 if self.batch_first else 0) == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        return self._run(input, hx, self.batch_first, None)

    def _forward_unbatched(self, input: Tensor, hx: Tensor | None) -> tuple[Tensor, Tensor]:
        if input.dim() != 2:
            raise ValueError(
                f"{type(self).__name__}: Expected input to be 2D or 3D, got {input.dim()}D tensor instead"
            )
        if hx is not None:
            if hx.dim() != 2:
                raise RuntimeError(f"For unbatched 2-D input, hx should also be 2-D but got {hx.dim()}-D tensor")
            hx = hx.unsqueeze(1)
        batch_dim = 0 if self.batch_first else 1
        output, h_n = RecurrentLayer.forward(self, input.unsqueeze(batch_dim), hx)
        return output.squeeze(batch_dim), h_n.squeeze(1)

    def _forward_packed(self, input: PackedSequence, hx: Tensor | None) -> tuple[PackedSequence, Tensor]:
        data, batch_sizes, sorted_indices, unsorted_indices = input
        if hx is not None and sorted_indices is not None:
            hx = hx.index_select(1, sorted_indices)
        self._check(data, hx, batch_sizes)
        output, h_n = self._run(data, hx, False, batch_sizes)
        if unsorted_indices is not None:
            h_n = h_n.index_select(1, unsorted_indices)
        return PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices), h_n

    def _check(self, input: Tensor, hx: Tensor | None, batch_sizes: Tensor | None) -> None:
        """Raises what torch raises for the same mistake; passes quickly where there is none."""
        fits = (
            input.size(-1) == self.input_size
            and (batch_sizes is None or input.dim() == 2)
            and input.dtype == weight(self, self._all_weights[0][0]).dtype
        )
        if not fits:
            self._update_flat_weights()
            self.check_input(input, batch_sizes)
        if hx is not None:
            self.check_hidden_size(hx, self.get_expected_hidden_size(input, batch_sizes))

    def _run(
        self, x: Tensor, hx: Tensor | None, batch_first: bool, batch_sizes: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """All layers over padded (T, B, I) or (B, T, I), or packed (N, I), input."""
        dtype = autocast_dtype(x)
        if dtype is not None:
            x, hx = x.to(dtype), cast(hx, dtype)
        directions = 2 if self.bidirectional else 1
        if self.num_layers == 1:
            return self._recurrence(
                x, *self._weights(0, dtype), hx, 2 * (directions - 1), batch_first, batch_sizes
            )
        drops = self.training and self.dropout > 0
        # torch draws its dropout masks time-major: drawn so, they are the same for the same seed.
        transposed = drops and batch_first
        if transposed:
            x, batch_first = x.transpose(0, 1), False

        last = []
        for layer in range(self.num_layers):
            h0 = None if hx is None else hx[layer * directions : (layer + 1) * directions]
            weights = self._weights(layer, dtype)
            x, h_n = self._recurrence(x, *weights, h0, 2 * (directions - 1), batch_first, batch_sizes)
            if drops and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, training=True)
            last.append(h_n)
        if transposed:
            x = x.transpose(0, 1)
        return x, torch.cat(last)

    def _weights(self, layer: int, dtype: torch.dtype | None) -> tuple[Any, Any, Any, Any]:
        """W_ih, W_hh, b_ih, b_hh of a layer; if bidirectional, (2 K, I), (2, K, H) and twice (2, K)."""
        if not self.bidirectional:
            joined = [weight(self, name) for name in self._all_weights[layer]]
        else:
            names = self._all_weights[2 * layer : 2 * layer + 2]
            weights = [[weight(self, name) for name in of_direction] for of_direction in names]
            w_ihs, *others = zip(*weights, strict=True)
            joined = [torch.cat(w_ihs), *map(torch.stack, others)]
        if dtype is not None:
            joined = [w.to(dtype) for w in joined]
        w_ih, w_hh, *biases = joined
        b_ih, b_hh = biases or (None, None)
        return w_ih, w_hh, b_ih, b_hh


class RNN(RecurrentLayer):
    r"""A multi-layer Elman RNN: :class:`torch.nn.RNN`, faster.

    .. math::
        h_t = f(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh})

    with :math:`f` tanh or relu (Elman, "Finding structure in time", Cognitive Science 14, 1990). Arguments,
    parameters, ``state_dict``, initial values for a seed, dropout masks for a seed, results and error
    messages are those of :class:`torch.nn.RNN`.

    Args:
        input_size: features of the input, I.
        hidden_size: units, H.
        num_layers: recurrences stacked on one another, L.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        bias: whether there are biases.
        batch_first: whether input and output are (B, T, ...) instead of (T, B, ...).
        dropout: probability of dropping a value between layers, in training.
        bidirectional: whether a second recurrence runs from the end; D is then 2, otherwise 1.
        device, dtype: of the parameters. float32, float64, bfloat16 and float16 have kernels on the CPU;
            16-bit sums are formed in float32. Anything else runs in plain torch, with one warning.

    Shapes:
        * input: (T, B, I), (B, T, I) with `batch_first`, (T, I) unbatched, or a
          :class:`~torch.nn.utils.rnn.PackedSequence`.
        * hx: (D L, B, H), or (D L, H) unbatched; zero if not given.
        * output: (T, B, D H) and so on like the input; the states of the last layer.
        * h_n: (D L, B, H), or (D L, H) unbatched; each layer's last state.

    Outputs have the dtype of the input; under autocast, the autocast dtype, whatever the kind of input.

    Raises:
        ValueError: for an input of wrong rank or dtype.
        RuntimeError: for sizes that do not fit.

    Example:
        >>> rnn = rnnfast.RNN(10, 20, num_layers=2)
        >>> output, h_n = rnn(torch.randn(5, 3, 10))
        >>> output.shape, h_n.shape
        (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        if "proj_size" in kwargs:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        self.nonlinearity = nonlinearity
        super().__init__(
            f"RNN_{nonlinearity.upper()}",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
            **kwargs,
        )

    def _recurrence(
        self,
        x: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        h0: Tensor | None,
        direction: int,
        batch_first: bool,
        batch_sizes: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        return ops.elman(x, w_ih, w_hh, b_ih, b_hh, h0, self.nonlinearity, direction, batch_first, batch_sizes)


__all__ = ["RNN", "RecurrentLayer"]
