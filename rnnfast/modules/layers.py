"""Recurrent layers: :class:`torch.nn.RNN`, :class:`~torch.nn.LSTM` and :class:`~torch.nn.GRU` on rnnfast's
kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import normalised
from .base import RecurrentLayer


def _without_those_of_lstms(options: dict[str, Any]) -> None:
    if "proj_size" in options:  # torch's words
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
    if "layer_norm" in options:
        raise ValueError(f"layer_norm: got {options['layer_norm']} for an RNN or GRU, expected an LSTM")


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
        num_layers: recurrences stacked on one another, L. On a GPU those of one direction run side by side, some
            chunks of steps apart, where that is estimated to be faster (:func:`rnnfast.forced_plan` has `chunks`);
            between chunks an LSTM's c and the gradients of states are rounded to 16 bits, where arrays have these.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        bias: whether there are biases.
        batch_first: whether input and output are (B, T, ...) instead of (T, B, ...).
        dropout: probability of dropping a value between layers, in training.
        bidirectional: whether a second recurrence runs from the end; D is then 2, otherwise 1.
        device, dtype: of the parameters. float32, float64, bfloat16 and float16 have kernels on the CPU;
            16-bit sums are formed in float32. Anything else runs in plain torch, with one warning.
        bptt_clip: v > 0: at each step of BPTT the gradient of the loss for h_t, all told, is kept between -v and
            v, element by element, before it goes on to the step before; also an attribute. None: it is not.
        recompute: whether only states are kept for the backward pass, which computes all else once more; of an RNN
            there is nothing else.
        checkpoint_every: k: of every k steps only the state at their beginning is kept, and k steps at a time are
            computed once more: for very long sequences. Both are attributes too. Results stay the same, but for
            two things: between chunks an LSTM's c and the gradients of states are rounded to 16 bits, where arrays
            have these; with resets other dropout masks are drawn between layers. Compiled, under torch.func and,
            in an LSTM, with `all_states` everything is kept.
        recurrent_dropout: probability with which a unit's candidate for the state, f(...), is dropped, in
            training: one mask for all steps of a row (Semeniuta, Severyn and Barth, arXiv:1603.05118). What is
            kept is divided by 1 - p.
        zoneout: probability with which a unit of the state stays what it was at a step (Krueger et al.,
            arXiv:1606.01305); in evaluation states are what they would be on average. Both are attributes too.
            Masks follow torch's generator; each stretch between resets has one of its own.

    Shapes:
        * input: (T, B, I), (B, T, I) with `batch_first`, (T, I) unbatched, or a
          :class:`~torch.nn.utils.rnn.PackedSequence`; rows of lengths of their own, resets and the states of every
          step: :meth:`forward`.
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

    _instead = "tensor instead"

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
        *,
        bptt_clip: float | None = None,
        recompute: bool = False,
        checkpoint_every: int | None = None,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        _without_those_of_lstms(kwargs)
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
        self._set_options(bptt_clip, recompute, checkpoint_every, recurrent_dropout, zoneout)

    @property
    def _cell(self) -> str:
        return "elman_tanh" if self.nonlinearity == "tanh" else "elman_relu"


class LSTM(RecurrentLayer):
    r"""A multi-layer long short-term memory: :class:`torch.nn.LSTM`, faster.

    .. math::
        i, f, o &= \sigma(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}) \\
        g &= \tanh(\text{likewise}) \\
        c_t &= f c_{t-1} + i g \\
        h_t &= o \tanh(c_t), \quad \text{or with projection} \quad W_{hr}\, o \tanh(c_t)

    (Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9, 1997; the forget gate: Gers,
    Schmidhuber and Cummins 2000; the projection: Sak, Senior and Beaufays, arXiv:1402.1128). Arguments,
    parameters, ``state_dict``, initial values for a seed, dropout masks for a seed, results and error messages
    are those of :class:`torch.nn.LSTM`.

    Args:
        input_size: features of the input, I.
        hidden_size: units, H.
        num_layers: recurrences stacked on one another, L; see :class:`RNN`.
        bias: whether there are biases.
        batch_first: whether input and output are (B, T, ...) instead of (T, B, ...).
        dropout: probability of dropping a value between layers, in training.
        bidirectional: whether a second recurrence runs from the end; D is then 2, otherwise 1.
        proj_size: units of the projected state, P; 0 for no projection, P is then H.
        device, dtype: of the parameters; see :class:`RNN`. With 16 bits c is carried in float32 from step to
            step.
        bptt_clip: as in :class:`RNN`; c_t's gradient is clipped, too.
        recompute, checkpoint_every: as in :class:`RNN`.
        recurrent_dropout: as in :class:`RNN`, of g.
        zoneout: as in :class:`RNN`; a pair for h and c, or one number for both. h_t's candidate is that of c_t's.
        layer_norm: whether W_ih x, W_hh h and c are normalised over their units (Ba, Kiros and Hinton,
            arXiv:1607.06450, equations 20 to 22), N(v) = (v - mean(v)) / sqrt(variance(v) + 1e-5):

            .. math::
                i, f, g, o \text{ of } & N(W_{ih} x_t) \, \text{norm\_ih} + N(W_{hh} h_{t-1}) \, \text{norm\_hh}
                + b_{ih} + b_{hh} \\
                h_t &= o \tanh(N(c_t) \, \text{norm\_c} + \text{norm\_c\_bias})

            with parameters ``norm_ih_l0`` and so on besides torch's, so that weights of a layer without them are
            loaded by ``load_state_dict(..., strict=False)``. Not with `proj_size`.

    Shapes:
        * input: (T, B, I), (B, T, I) with `batch_first`, (T, I) unbatched, or a
          :class:`~torch.nn.utils.rnn.PackedSequence`; rows of lengths of their own, resets and the states of every
          step: :meth:`forward`.
        * hx: a pair h_0 (D L, B, P) and c_0 (D L, B, H), without B if unbatched; zero if not given.
        * output: (T, B, D P) and so on like the input; the states h of the last layer.
        * (h_n, c_n): like hx; each layer's last states. :func:`rnnfast.functional.lstm` returns every step's c.

    Outputs have the dtype of the input; under autocast, the autocast dtype, whatever the kind of input.

    Raises:
        ValueError: for an input of wrong rank or dtype.
        RuntimeError: for sizes that do not fit.

    Example:
        >>> lstm = rnnfast.LSTM(10, 20, num_layers=2)
        >>> output, (h_n, c_n) = lstm(torch.randn(5, 3, 10))
        >>> output.shape, c_n.shape
        (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))
    """

    @property
    def _cell(self) -> str:
        return normalised.CELL if self._layer_norm else "lstm"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bptt_clip: float | None = None,
        recompute: bool = False,
        checkpoint_every: int | None = None,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        layer_norm: bool = False,
    ) -> None:
        if layer_norm and proj_size > 0:
            raise ValueError(f"layer_norm: got True with proj_size={proj_size}, expected proj_size=0")
        args = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size)
        super().__init__("LSTM", *args, device=device, dtype=dtype)
        self._set_options(bptt_clip, recompute, checkpoint_every, recurrent_dropout, zoneout)
        if layer_norm:
            self._layer_norm = True
            self._look_again()
            normalised.add_parameters(self)

    @property
    def layer_norm(self) -> bool:
        """Whether W_ih x, W_hh h and c are normalised."""
        return self._layer_norm

    def reset_parameters(self) -> None:
        """Draws weights and biases as torch does; gains become 1, biases of c 0."""
        super().reset_parameters()
        if self._layer_norm:
            normalised.reset_parameters(self)

    def _split(self, hx: Any) -> tuple[Any, Any]:
        return (None, None) if hx is None else (hx[0], hx[1])

    def _join(self, h: Tensor, c: Tensor | None) -> Any:
        return h, c

    def _check_rank(self, h0: Tensor, c0: Tensor | None, rank: int) -> None:
        assert c0 is not None
        if h0.dim() != rank or c0.dim() != rank:
            kind = "batched" if rank == 3 else "unbatched"
            raise RuntimeError(
                f"For {kind} {rank}-D input, hx and cx should also be {rank}-D "
                f"but got ({h0.dim()}-D, {c0.dim()}-D) tensors"
            )

    def get_expected_cell_size(self, input: Tensor, batch_sizes: Tensor | None) -> tuple[int, int, int]:
        """The shape that c_0 must have, as :meth:`get_expected_hidden_size` gives that of h_0."""
        layers, batch, _ = self.get_expected_hidden_size(input, batch_sizes)
        return layers, batch, self.hidden_size

    def _check_states(self, input: Tensor, h0: Tensor, c0: Tensor | None, batch_sizes: Tensor | None) -> None:
        assert c0 is not None
        h_shape = self.get_expected_hidden_size(input, batch_sizes)
        c_shape = self.get_expected_cell_size(input, batch_sizes)
        self.check_hidden_size(h0, h_shape, "Expected hidden[0] size {}, got {}")
        self.check_hidden_size(c0, c_shape, "Expected hidden[1] size {}, got {}")


class GRU(RecurrentLayer):
    r"""A multi-layer gated recurrent unit: :class:`torch.nn.GRU`, faster.

    .. math::
        r, z &= \sigma(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}) \\
        n &= \tanh(W_{in} x_t + b_{in} + r (W_{hn} h_{t-1} + b_{hn})) \\
        h_t &= (1 - z) n + z h_{t-1}

    (Cho et al., "Learning phrase representations using RNN encoder-decoder for statistical machine translation",
    arXiv:1406.1078, with the reset gate where torch has it). Arguments, parameters, ``state_dict``, initial
    values for a seed, dropout masks for a seed, results and error messages are those of :class:`torch.nn.GRU`.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype,
            bptt_clip, recompute, checkpoint_every, zoneout: as in :class:`RNN`; recurrent_dropout: of n.

    Shapes: those of :class:`RNN`.

    Outputs have the dtype of the input; under autocast, the autocast dtype, whatever the kind of input.

    Raises:
        ValueError: for an input of wrong rank or dtype.
        RuntimeError: for sizes that do not fit.

    Example:
        >>> gru = rnnfast.GRU(10, 20, bidirectional=True)
        >>> output, h_n = gru(torch.randn(5, 3, 10))
        >>> output.shape, h_n.shape
        (torch.Size([5, 3, 40]), torch.Size([2, 3, 20]))
    """

    @property
    def _cell(self) -> str:
        return "gru"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bptt_clip: float | None = None,
        recompute: bool = False,
        checkpoint_every: int | None = None,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        _without_those_of_lstms(kwargs)
        args = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__("GRU", *args, device=device, dtype=dtype, **kwargs)
        self._set_options(bptt_clip, recompute, checkpoint_every, recurrent_dropout, zoneout)


__all__ = ["GRU", "LSTM", "RNN"]
