"""What RNN, LSTM and GRU layers share: everything but their cell."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import profiler
from torch.nn.utils.rnn import PackedSequence

from .. import ops
from .._noise import draw_seed
from .._torch import any_autocast, is_compiling
from . import masked, normalised, ragged, wavefront
from ._common import autocast_dtype, cast, weight, weights
from .options import Options


class RecurrentLayer(Options, torch.nn.RNNBase):
    """A stack of recurrences over a sequence.

    Subclasses :class:`torch.nn.RNNBase`, not ``torch.nn.RNN`` and its kin: ``torch.compile(fullgraph=True)``
    refuses modules that pass ``isinstance(m, nn.RNN)``. Parameters, their names, initial values and order are
    torch's.
    """

    __jit_unused_properties__: ClassVar = [  # what TorchScript is not to read
        "all_weights",
        "recompute",
        "checkpoint_every",
        "recurrent_dropout",
        "zoneout",
        "layer_norm",
    ]
    # Called with each layer's number, its input and how that is laid out; gives what BPTT will call with the norms
    # of dL/dh_t, (T, B, D) and so on (rnnfast.lab.record_gradients).
    _recorder: Any = None
    _takes_stretches = True  # in its _run
    _instead = "instead"  # how torch's message about an input of wrong rank ends

    def extra_repr(self) -> str:
        """torch's, and what torch's layers do not have."""
        return super().extra_repr() + self._options_repr()

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
        """Runs the layer over a padded, unbatched, packed or nested sequence; see the class for shapes.

        Args:
            input, hx: as for torch's layers. A nested tensor of layout :data:`torch.jagged`, (B, *, I), gives a
                nested output.
            lengths: (B,) integers from 0 to T, in any order: a row's steps beyond its length are not run, whatever
                stands there; its output is zero there, its last state that of its own last step, and the reverse
                direction begins there. A row without steps keeps `hx`.
            reset: bool, (T, B) or (B, T) with `batch_first`: where it is true a row begins anew, as when an
                episode has ended: what went before that step has no effect on it, and no gradient flows back
                across it. In the reverse direction the cut is at the same place, between that step and the one
                before.
            reset_state: what a row then begins with, in the form of `hx`, for all rows or, with one row, the same
                for each; zero if not given.
            all_states: whether the states of all steps and layers are returned as well.

        Both `lengths` and `reset` cut rows into stretches that run side by side, as rows of one packed batch, or,
        with resets only on the CPU, where they lie. Resets on a GPU are read back to the host, which waits for the
        device. Lengths that the host does not know, on a GPU without resets, or where a program is compiled,
        exported or traced or each sample of a vmap has its own, are not waited for: all T steps are run, and
        what is beyond a row's length is masked. Such lengths are taken to be 0 where they are less and T where
        they are more (RNNFAST_STRICT=1 checks those on a GPU).

        Returns:
            output and last state, as torch's layers return them; with `all_states` third the states, h, of an LSTM
            (h, c), each (L, T, B, D P) and so on: with a leading axis for the layers, otherwise like the output.

        Raises:
            ValueError: for lengths or resets of the wrong dtype or shape, or out of range.
            TypeError: for ones that are no tensors.

        Example:
            >>> gru, x = rnnfast.GRU(10, 20), torch.randn(5, 3, 10)
            >>> output, h_n = gru(x, lengths=torch.tensor([5, 2, 0]))
            >>> output[2:, 1].abs().max().item()
            0.0
            >>> episode_begins = torch.zeros(5, 3, dtype=torch.bool)
            >>> episode_begins[2, 1] = True
            >>> output, h_n, states = gru(x, reset=episode_begins, all_states=True)
            >>> states.shape
            torch.Size([1, 5, 3, 20])
        """
        h0, c0 = (None, None) if hx is None else self._split(hx)
        collected: list[Any] | None = [] if all_states else None
        if lengths is not None or reset is not None or reset_state is not None:
            results = self._forward_ragged(input, h0, c0, lengths, reset, reset_state, collected)
        elif isinstance(input, PackedSequence):
            results = self._forward_packed(input, h0, c0, collected)
        elif input.dim() != 3:
            results = self._forward_unbatched(input, h0, c0, collected)
        elif input.is_nested:
            results = self._forward_ragged(input, h0, c0, None, None, None, collected)
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
        lengths: Any,
        reset: Any,
        reset_state: Any,
        collected: list[Any] | None,
    ) -> tuple[Tensor, Any]:
        """Rows that end at their lengths, or are reset on the way."""
        if isinstance(input, PackedSequence) or input.dim() != 3:
            got = "a PackedSequence" if isinstance(input, PackedSequence) else f"{input.dim()} dimensions"
            raise ValueError(f"input: got {got}, expected a padded batch to go with lengths and reset")
        if reset_state is not None and reset is None:
            raise ValueError("reset_state: got one without reset, expected both")
        if reset_state is not None:
            ragged.checked_state("reset_state", reset_state, self.mode == "LSTM")
        if input.is_nested and collected is not None:
            raise ValueError("all_states: got True with a nested input, expected a padded or packed one")
        if h0 is not None:
            self._check_rank(h0, c0, 3)
        packs = not self._takes_stretches or self.recompute or self.checkpoint_every is not None
        batch: Any
        if reset is None and not input.is_nested and masked.are_unknown(lengths):
            batch = masked.MaskedBatch(input, self.batch_first, self.bidirectional, lengths)
            self._check(batch.input, h0, c0, None)
            output, h_n, c_n = batch.run(self._run, (h0, c0), collected)
            return output, self._join(h_n, c_n)
        batch = ragged.Batch(input, self.batch_first, self.bidirectional, lengths, reset, packs)
        self._check(batch.input, h0, c0, batch.rows if input.is_nested else None)
        others = self._split(reset_state)
        batch.check_others(others, self.num_layers, self.proj_size or self.hidden_size, self.hidden_size)
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
        # How many rows a packed batch has depends on values, which a compiler does not know: the operator looks.
        if h0 is not None and (batch_sizes is None or not is_compiling()):
            self._check_states(input, h0, c0, batch_sizes)

    def _run(
        self,
        x: Tensor,
        h0: Tensor | None,
        c0: Tensor | None,
        batch_first: bool,
        batch_sizes: Tensor | None,
        collected: list[Any] | None = None,
        batch: ragged.Batch | masked.MaskedBatch | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """All layers over padded (T, B, I) or (B, T, I), or packed (N, I), input: output, h_n and c_n.

        collected: takes each layer's states of every step, (h,), of an LSTM (h, c); batch: what the rows are
        stretches of.
        """
        dtype = autocast_dtype(x) if any_autocast() else None
        if dtype is not None:
            x, h0, c0 = x.to(dtype), cast(h0, dtype), cast(c0, dtype)
        if self.num_layers == 1 and collected is None:
            x, h_n, *c_n = self._run_layer(0, x, h0, c0, batch_first, batch_sizes, dtype, batch=batch)
            return x, h_n, c_n[0] if c_n else None
        directions = 2 if self.bidirectional else 1
        drops = self.training and self.dropout > 0
        # torch draws its dropout masks time-major: drawn so, they are the same for the same seed.
        transposed = drops and batch_first
        if transposed:
            x, batch_first = x.transpose(0, 1), False

        found, weights = None, None
        ordinary = batch is None and batch_sizes is None and collected is None and not self.bidirectional
        if ordinary and self._is_plain and self._recorder is None and wavefront.may_be(x):
            # Once, for both ways to run: reading them may compute something, as parametrizations do.
            weights = [self._weights(layer, dtype) for layer in range(self.num_layers)]
            found = self._run_side_by_side(x, h0, c0, batch_first, weights, self.dropout if drops else 0.0)
        if found is not None:
            x, last = found
        else:
            last, all_c = [], collected is not None and self.mode == "LSTM"
            for layer in range(self.num_layers):
                own = slice(layer * directions, (layer + 1) * directions)
                h, c = [None if s is None else s[own] for s in (h0, c0)]
                at_hand = None if weights is None else weights[layer]
                x, *states = self._run_layer(
                    layer, x, h, c, batch_first, batch_sizes, dtype, all_c, batch, at_hand
                )
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

    def _run_side_by_side(
        self,
        x: Tensor,
        h0: Tensor | None,
        c0: Tensor | None,
        batch_first: bool,
        weights: list[tuple[Any, Any, Any, Any, Any]],
        dropout: float,
    ) -> tuple[Tensor, list[Any]] | None:
        """The output and each layer's last states, or None where layers run one after the other."""

        def layer(k: int) -> wavefront.Layer:
            def call(x: Tensor, h: Any, c: Any = None, **options: Any) -> Any:
                return self._run_layer(k, x, h, c, batch_first, None, None, **options)

            states = [None if s is None else s[k : k + 1] for s in (h0, c0)]
            return wavefront.Layer(weights[k], states, call)

        stack, axis = [layer(k) for k in range(self.num_layers)], int(batch_first)
        wave = wavefront.planned(x, axis, stack, self._cell, self.hidden_size, self.proj_size)
        return None if wave is None else wavefront.run(x, stack, wave, axis, dropout)

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
        batch: ragged.Batch | masked.MaskedBatch | None = None,
        weights: tuple[Any, Any, Any, Any, Any] | None = None,
        beside: int = 0,
    ) -> Any:
        """One layer, both directions: output, h_n, of an LSTM c_n, and if wanted all c, (T, B, D, H).

        weights: where they are at hand; beside: how many other layers run at the same time.
        """
        weights, direction = weights or self._weights(layer, dtype), 2 if self.bidirectional else 0
        layout = (self._cell, direction, batch_first, batch_sizes)
        if batch is None and self._is_plain and self._recorder is None and not profiler._is_profiler_enabled:
            return ops.recurrence(x, *weights, h0, c0, *layout, all_c, self.bptt_clip, beside=beside)
        note, stretches = None, None if batch is None else batch.table
        if self._recorder is not None:
            recorder = self._recorder if batch is None else batch.recording(self._recorder)
            note = recorder(layer, x, self.bidirectional, batch_first, batch_sizes)
        noise = self._rates(self.training)
        # All that BPTT of an Elman RNN needs are states, unless there is noise on them.
        recompute = self.recompute and (noise is not None or not self.mode.startswith("RNN"))
        every = self.checkpoint_every or (sys.maxsize if recompute else None)
        seed = draw_seed(x.device) if noise is not None and self.training else None
        run: Any = partial(self._recurrence, layer)
        states = all_c
        if isinstance(batch, masked.MaskedBatch):
            run = partial(batch.recurrence, run, all_c=all_c)
            states = self.mode == "LSTM"  # its last c is one of all
        options = (*layout, states, self.bptt_clip, note, every, stretches, noise, seed, beside)
        directions = "forward and reverse" if self.bidirectional else "forward"
        name = f"rnnfast.{type(self).__name__} layer {layer}, {directions}"
        with profiler.record_function(name) if profiler._is_profiler_enabled else nullcontext():
            return run(x, weights, h0, c0, options)

    def _recurrence(
        self, layer: int, x: Tensor, weights: tuple[Any, Any, Any, Any, Any], h0: Any, c0: Any, options: Any
    ) -> Any:
        """A layer with all that it has; options: what :func:`rnnfast.ops.recurrence` takes from `cell` on."""
        if self._layer_norm:
            return normalised.recurrence(self, layer, x, weights, h0, c0, options)
        return ops.recurrence(x, *weights, h0, c0, *options)

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
