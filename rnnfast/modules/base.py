"""What RNN, LSTM and GRU layers share: everything but their cell."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import profiler
from torch.nn.utils.rnn import PackedSequence

from .. import ops
from . import ragged
from ._common import autocast_dtype, cast, weight, weights


class RecurrentLayer(torch.nn.RNNBase):
    """A stack of recurrences over a sequence.

    Subclasses :class:`torch.nn.RNNBase`, not ``torch.nn.RNN`` and its kin: ``torch.compile(fullgraph=True)``
    refuses modules that pass ``isinstance(m, nn.RNN)``. Parameters, their names, initial values and order are
    torch's.
    """

    bptt_clip: float | None = None
    # Called with each layer's number, its input and how that is laid out; gives what BPTT will call with the norms
    # of dL/dh_t, (T, B, D) and so on (rnnfast.lab.record_gradients).
    _recorder: Any = None
    _instead = "instead"  # how torch's message about an input of wrong rank ends

    def _set_bptt_clip(self, bptt_clip: float | None) -> None:
        if bptt_clip is None:
            return
        if not bptt_clip > 0:
            raise ValueError(f"bptt_clip: got {bptt_clip}, expected a positive number or None")
        self.bptt_clip = float(bptt_clip)

    def extra_repr(self) -> str:
        """torch's, and what torch's layers do not have."""
        return super().extra_repr() + (f", bptt_clip={self.bptt_clip}" if self.bptt_clip is not None else "")

    def __prepare_scriptable__(self) -> Any:
        """What torch.jit.script takes in place of the layer."""
        from .scripting import scriptable

        return scriptable(self)

    @property
    def _cell(self) -> str:
        """The cell, as csrc/ops.cpp names it."""
        raise NotImplementedError

    def _split(self, hx: Any) -> tuple[Any, Any]:
        """h and c of the `hx` that the caller gave."""
        return hx, None

    def _join(self, h: Tensor, c: Tensor | None) -> Any:
        """What the caller gets for h and c."""
        return h

    def _check_rank(self, h0: Tensor, c0: Tensor | None, rank: int) -> None:
        if h0.dim() != rank:
            kind = "batched" if rank == 3 else "unbatched"
            raise RuntimeError(
                f"For {kind} {rank}-D input, hx should also be {rank}-D but got {h0.dim()}-D tensor"
            )

    def _check_states(self, input: Tensor, h0: Tensor, c0: Tensor | None, batch_sizes: Tensor | None) -> None:
        self.check_hidden_size(h0, self.get_expected_hidden_size(input, batch_sizes))

    def flatten_parameters(self) -> None:
        """Does nothing: weights stay separate tensors. Kept because code written for torch's layers calls it."""

    def forward(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        reset_state: Any = None,
        all_states: bool = False,
    ) -> Any:
        """Runs the layer over a padded, unbatched or packed sequence; see the class for shapes."""
        h0, c0 = self._split(hx)
        collected: list[Any] | None = [] if all_states else None
        if lengths is not None or reset is not None or reset_state is not None:
            options = dict(lengths=lengths, reset=reset, reset_state=reset_state)
            results = self._forward_ragged(input, h0, c0, options, collected)
        elif isinstance(input, PackedSequence):
            results = self._forward_packed(input, h0, c0, collected)
        elif input.dim() != 3:
            results = self._forward_unbatched(input, h0, c0, collected)
        else:
            if h0 is not None:
                self._check_rank(h0, c0, 3)
            output, h_n, c_n = self._forward_padded(input, h0, c0, collected)
            results = output, self._join(h_n, c_n)
        return results if collected is None else (*results, self._stacked(collected))

    def _stacked(self, collected: list[Any]) -> Any:
        """Every step's states of every layer, (L, T, B, D P) and so on."""
        h, *c = [torch.stack(of_layers) for of_layers in zip(*collected, strict=True)]
        return self._join(h, c[0] if c else None)

    def _forward_ragged(
        self,
        input: Any,
        h0: Tensor | None,
        c0: Tensor | None,
        options: dict[str, Any],
        collected: list[Any] | None,
    ) -> tuple[Tensor, Any]:
        """Rows that end at their lengths, or are reset on the way."""
        if isinstance(input, PackedSequence) or input.dim() != 3:
            got = "a PackedSequence" if isinstance(input, PackedSequence) else f"{input.dim()} dimensions"
            raise ValueError(f"input: got {got}, expected a padded batch to go with lengths and reset")
        if h0 is not None:
            self._check_rank(h0, c0, 3)
        self._check(input, h0, c0, None)
        others = self._split(options.pop("reset_state"))
        if others[0] is not None and options["reset"] is None:
            raise ValueError("reset_state: got one without reset, expected both")
        batch = ragged.Batch(input, self.batch_first, self.bidirectional, **options)
        batch.check_others(others, self.get_expected_hidden_size(input, None), self.hidden_size)
        output, h_n, c_n = batch.run(self._run, (h0, c0), others, collected)
        return output, self._join(h_n, c_n)

    def _forward_padded(
        self, input: Tensor, h0: Tensor | None, c0: Tensor | None, collected: list[Any] | None
    ) -> Any:
        self._check(input, h0, c0, None)
        if input.size(1 if self.batch_first else 0) == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        return self._run(input, h0, c0, self.batch_first, None, collected)

    def _forward_unbatched(
        self, input: Tensor, h0: Tensor | None, c0: Tensor | None, collected: list[Any] | None
    ) -> tuple[Tensor, Any]:
        if input.dim() != 2:
            raise ValueError(
                f"{type(self).__name__}: Expected input to be 2D or 3D, got {input.dim()}D {self._instead}"
            )
        if h0 is not None:
            self._check_rank(h0, c0, 2)
            h0, c0 = h0.unsqueeze(1), None if c0 is None else c0.unsqueeze(1)
        batch_dim = 0 if self.batch_first else 1
        output, h_n, c_n = self._forward_padded(input.unsqueeze(batch_dim), h0, c0, collected)
        if collected is not None:
            collected[:] = [tuple(s.squeeze(batch_dim) for s in of_layer) for of_layer in collected]
        return output.squeeze(batch_dim), self._join(h_n.squeeze(1), None if c_n is None else c_n.squeeze(1))

    def _forward_packed(
        self, input: PackedSequence, h0: Tensor | None, c0: Tensor | None, collected: list[Any] | None
    ) -> tuple[PackedSequence, Any]:
        data, batch_sizes, sorted_indices, unsorted_indices = input

        def permuted(state: Tensor | None, indices: Tensor | None) -> Any:
            return state if state is None or indices is None else state.index_select(1, indices)

        h0, c0 = permuted(h0, sorted_indices), permuted(c0, sorted_indices)
        self._check(data, h0, c0, batch_sizes)
        output, h_n, c_n = self._run(data, h0, c0, False, batch_sizes, collected)
        states = self._join(permuted(h_n, unsorted_indices), permuted(c_n, unsorted_indices))
        return PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices), states

    def _check(self, input: Tensor, h0: Tensor | None, c0: Tensor | None, batch_sizes: Tensor | None) -> None:
        """Raises what torch raises for the same mistake; passes quickly where there is none."""
        fits = (
            input.size(-1) == self.input_size
            and (batch_sizes is None or input.dim() == 2)
            and input.dtype == weight(self, self._all_weights[0][0]).dtype
        )
        if not fits:
            self._update_flat_weights()
            self.check_input(input, batch_sizes)
        if h0 is not None:
            self._check_states(input, h0, c0, batch_sizes)

    def _run(
        self,
        x: Tensor,
        h0: Tensor | None,
        c0: Tensor | None,
        batch_first: bool,
        batch_sizes: Tensor | None,
        collected: list[Any] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """All layers over padded (T, B, I) or (B, T, I), or packed (N, I), input: output, h_n and c_n.

        collected: takes each layer's states of every step, (h,), of an LSTM (h, c).
        """
        dtype = autocast_dtype(x)
        if dtype is not None:
            x, h0, c0 = x.to(dtype), cast(h0, dtype), cast(c0, dtype)
        if self.num_layers == 1 and collected is None:
            x, h_n, *c_n = self._run_layer(0, x, h0, c0, batch_first, batch_sizes, dtype)
            return x, h_n, c_n[0] if c_n else None
        directions = 2 if self.bidirectional else 1
        drops = self.training and self.dropout > 0
        # torch draws its dropout masks time-major: drawn so, they are the same for the same seed.
        transposed = drops and batch_first
        if transposed:
            x, batch_first = x.transpose(0, 1), False

        last, all_c = [], collected is not None and self.mode == "LSTM"
        for layer in range(self.num_layers):
            own = slice(layer * directions, (layer + 1) * directions)
            h, c = [None if s is None else s[own] for s in (h0, c0)]
            x, *states = self._run_layer(layer, x, h, c, batch_first, batch_sizes, dtype, all_c)
            if collected is not None:
                of_layer = (x, states.pop().flatten(-2)) if all_c else (x,)
                collected.append(tuple(s.transpose(0, 1) for s in of_layer) if transposed else of_layer)
            if drops and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, training=True)
            last.append(states)
        if transposed:
            x = x.transpose(0, 1)
        h_n, *c_n = [torch.cat(states) for states in zip(*last, strict=True)]
        return x, h_n, c_n[0] if c_n else None

    def _run_layer(
        self,
        layer: int,
        x: Tensor,
        h0: Tensor | None,
        c0: Tensor | None,
        batch_first: bool,
        batch_sizes: Tensor | None,
        dtype: torch.dtype | None,
        all_c: bool = False,
    ) -> Any:
        """One layer, both directions: output, h_n, of an LSTM c_n, and if wanted all c, (T, B, D, H)."""
        direction = 2 if self.bidirectional else 0
        note = None
        if self._recorder is not None:
            note = self._recorder(layer, x, self.bidirectional, batch_first, batch_sizes)
        options: Any = (self._cell, direction, batch_first, batch_sizes, all_c, self.bptt_clip, note)
        if not profiler._is_profiler_enabled:
            return ops.recurrence(x, *self._weights(layer, dtype), h0, c0, *options)
        directions = "forward and reverse" if self.bidirectional else "forward"
        with profiler.record_function(f"rnnfast.{type(self).__name__} layer {layer}, {directions}"):
            return ops.recurrence(x, *self._weights(layer, dtype), h0, c0, *options)

    def _weights(self, layer: int, dtype: torch.dtype | None) -> tuple[Any, Any, Any, Any, Any]:
        """W_ih, W_hh, W_hr, b_ih, b_hh of a layer.

        If bidirectional: (2 K, I), (2, K, P), (2, P, H) and twice (2, K).
        """
        if not self.bidirectional:
            joined = weights(self, self._all_weights[layer])
        else:
            of_directions = [weights(self, names) for names in self._all_weights[2 * layer : 2 * layer + 2]]
            w_ihs, *others = zip(*of_directions, strict=True)
            joined = [torch.cat(w_ihs), *map(torch.stack, others)]
        if dtype is not None:
            joined = [w.to(dtype) for w in joined]
        w_hr = joined.pop() if self.proj_size else None
        w_ih, w_hh, *biases = joined
        b_ih, b_hh = biases or (None, None)
        return w_ih, w_hh, w_hr, b_ih, b_hh


__all__ = ["RecurrentLayer"]
