"""Batches whose rows have lengths of their own, or are reset on the way: cut into stretches and packed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import ops
from .._torch import any_autocast
from ..reference import rows_at
from ..sequences import Stretches, checked_lengths


def checked_state(name: str, state: Any, pair: bool) -> Any:
    """A state that was given, a tensor or a pair."""
    tensors = state if pair and isinstance(state, (tuple, list)) else [state]
    if len(tensors) != (2 if pair else 1) or not all(isinstance(s, Tensor) for s in tensors):
        got = (
            f"{type(state).__name__} of {len(state)}" if isinstance(state, (tuple, list)) else type(state).__name__
        )
        raise TypeError(f"{name}: got {got}, expected {'a pair of tensors' if pair else 'a tensor'}")
    return state


def checked_reset(reset: Any, batch: int, steps: int, batch_first: bool) -> Tensor:
    """`reset` on the CPU as (T, B), once it is found to fit."""
    if not isinstance(reset, Tensor):
        raise TypeError(f"reset: got {type(reset).__name__}, expected a tensor")
    expected = (batch, steps) if batch_first else (steps, batch)
    if reset.dtype != torch.bool or reset.shape != expected:
        raise ValueError(
            f"reset: got {reset.dtype} of shape {tuple(reset.shape)}, expected torch.bool of shape {expected}"
        )
    reset = reset.detach().cpu()
    return reset.t() if batch_first else reset


def check_nested(input: Tensor) -> None:
    """Whether a nested tensor is (B, *, I), its rows one behind the other."""
    got = f"layout {input.layout}, {input.dim()} dimensions"
    if input.layout == torch.jagged:
        ragged = next(i for i, size in enumerate(input.shape) if not isinstance(size, int))
        got += f" of which {ragged} is ragged{', with holes' if input.lengths() is not None else ''}"
    if got != f"layout {torch.jagged}, 3 dimensions of which 1 is ragged":
        raise ValueError(f"input: got a nested tensor of {got}; expected (B, *, I), torch.jagged and no holes")


def _of_nested(input: Tensor, lengths: Any, reset: Any) -> Stretches:
    """Its rows, whose steps lie one behind the other."""
    if lengths is not None or reset is not None:
        name = "reset" if lengths is None else "lengths"
        raise ValueError(f"{name}: got one with a nested input, whose rows have lengths already, expected None")
    offsets = input.offsets().detach().to("cpu", torch.int64)
    lengths = offsets.diff()
    steps = int(lengths.max()) if len(lengths) > 0 else 0
    return ops.stretches(lengths, None, steps, len(lengths), True, packs=True)


def _from_padded(stretches: Stretches, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Index and inverse of steps that lie one behind the other, row by row, with nothing between."""
    offsets = offsets.detach().to("cpu", torch.int64)
    steps = len(stretches.batch_sizes)
    index = offsets[stretches.index // max(steps, 1)] + stretches.index % max(steps, 1)
    return index, torch.empty_like(index).index_copy(0, index, torch.arange(len(index)))


class Batch:
    """A padded or nested batch that is cut into stretches.

    Args:
        input: (T, B, I), (B, T, I) with `batch_first`, or nested with layout jagged, (B, *, I); bidirectional:
            whether its layers are.
        lengths, reset: as a layer's forward takes them; packs: whether the layers run over packed batches only.
    """

    def __init__(
        self, input: Tensor, batch_first: bool, bidirectional: bool, lengths: Any, reset: Any, packs: bool
    ) -> None:
        self.batch_first = batch_first
        self.directions, self.offsets = 2 if bidirectional else 1, None
        # What lacks no step need not be packed to be run without those that there are not.
        self.packs = packs or lengths is not None or input.is_nested or not ops.takes_stretches(input)
        self.has_lengths, self.has_resets = lengths is not None or input.is_nested, reset is not None
        if input.is_nested:
            check_nested(input)
            self.input, self.offsets, self.batch_first = input.values(), input.offsets(), True
            self.stretches = _of_nested(input, lengths, reset)
            self.index, self.inverse = _from_padded(self.stretches, self.offsets)
            self.padded = (len(self.stretches.empty), len(self.stretches.batch_sizes))
            return
        self.input, self.padded = input, input.shape[:2]
        rows, steps = input.shape[:2] if batch_first else (input.size(1), input.size(0))
        lengths = None if lengths is None else checked_lengths(lengths, rows, steps)
        reset = None if reset is None else checked_reset(reset, rows, steps, batch_first)
        if steps == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        self.stretches = ops.stretches(lengths, reset, steps, rows, batch_first, self.packs)
        self.index, self.inverse = self.stretches.index, self.stretches.inverse

    @property
    def rows(self) -> Tensor:
        """How many rows there are, as batch_sizes would say for the first step."""
        return torch.tensor([len(self.stretches.empty)])

    def check_others(self, others: tuple[Any, Any], layers: int, *sizes: int) -> None:
        """Whether `reset_state` fits so many layers, and the sizes of h and c."""
        lead, rows = layers * self.directions, len(self.stretches.empty)
        for s, size in zip(others, sizes, strict=True):
            if s is None:
                continue
            if s.dim() != 3 or s.size(1) not in (1, rows) or s.shape[::2] != (lead, size):
                expected = f"({lead}, {rows} or 1, {size})"
                raise ValueError(f"reset_state: got shape {tuple(s.shape)}, expected {expected}")
            if s.dtype != self.input.dtype and not any_autocast():
                raise ValueError(f"reset_state: got {s.dtype}, expected {self.input.dtype}, that of the input")

    @property
    def table(self) -> Tensor | None:
        """Where the stretches lie in padded arrays; None: they are packed."""
        return None if self.packs else self.stretches.table

    def recording(self, recorder: Any) -> Any:
        """A layer's recorder, to whom what is packed is shown padded."""
        if recorder is None or not self.packs:
            return recorder
        inverse = self.stretches.inverse.to(self.input.device)

        def of_layer(layer: int, x: Tensor, bidirectional: bool, *_: Any) -> Any:
            take = recorder(layer, x.new_empty(*self.padded, 0), bidirectional, self.batch_first, None)
            return None if take is None else lambda norms: take(rows_at(norms, inverse, self.padded))

        return of_layer

    def run(
        self,
        layers: Callable[..., Any],
        states: tuple[Any, Any],
        others: tuple[Any, Any],
        collected: list[Any] | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """`layers` over the stretches: output, zero where there are no steps, and each row's last states."""
        h0, c0 = [self._entering(given, other) for given, other in zip(states, others, strict=True)]
        if not self.packs:
            output, h_n, c_n = layers(self.input, h0, c0, self.batch_first, None, collected, self)
            return output, self._leaving(h_n, states[0]), None if c_n is None else self._leaving(c_n, states[1])
        lead, device = self.input.shape[:-1], self.input.device
        index, inverse = self.index.to(device), self.inverse.to(device)
        data = ops.rows_at(self.input, index, inverse, index.shape)
        output, h_n, c_n = layers(data, h0, c0, False, self.stretches.batch_sizes, collected, self)

        def padded(packed: Tensor) -> Tensor:
            whole = ops.rows_at(packed, inverse, index, lead)
            return whole if self.offsets is None else torch.nested.nested_tensor_from_jagged(whole, self.offsets)

        if collected is not None:
            collected[:] = [tuple(padded(of_state) for of_state in of_layer) for of_layer in collected]
        c_n = None if c_n is None else self._leaving(c_n, states[1])
        return padded(output), self._leaving(h_n, states[0]), c_n

    def _by_direction(self, values: Tensor, like: Tensor) -> Tensor:
        """(2, S) or (2, B) values, in time and against it, as (D L, S, 1)."""
        each = values[: self.directions].to(like.device)
        return each.repeat(like.size(0) // self.directions, 1).unsqueeze(2)

    def _entering(self, given: Tensor | None, otherwise: Tensor | None) -> Tensor | None:
        """The state that each stretch begins with, (D L, S, P).

        The row's own for its first one in each direction's order, for all others `otherwise`, of the row, or zero.
        """
        some = given if given is not None else otherwise
        if some is None:
            return None
        row = self.stretches.row.to(some.device)
        first, others = [
            some.new_zeros(1, 1, 1) if s is None else s if s.size(1) == 1 else s.index_select(1, row)
            for s in (given, otherwise)
        ]
        if not self.has_resets:
            return first.expand(-1, len(row), -1)
        begins = self._by_direction(self.stretches.begins, some)
        return torch.where(begins, first, others).expand(-1, -1, some.size(2)).contiguous()

    def _leaving(self, found: Tensor, given: Tensor | None) -> Tensor:
        """Each row's state at its end, (D L, B, P); of one without steps what it began with."""
        if self.has_lengths:
            return self._leaving_or_empty(found, given)
        return self._ends(found)

    def _ends(self, found: Tensor) -> Tensor:
        """Of what the stretches end with, (D L, S, P), what each row ends with, (D L, B, P)."""
        if self.directions == 1:
            return found.index_select(1, self.stretches.ends[0].to(found.device))
        last = self._by_direction(self.stretches.ends, found)
        return found.gather(1, last.expand(-1, -1, found.size(2)))

    def _leaving_or_empty(self, found: Tensor, given: Tensor | None) -> Tensor:
        empty = self.stretches.empty.to(found.device).unsqueeze(1)
        before = found.new_zeros(1, 1, 1) if given is None else given.to(found.dtype)
        if found.size(1) == 0:  # no steps at all
            return before.expand(found.size(0), len(empty), found.size(2))
        return torch.where(empty, before, self._ends(found))


__all__ = ["Batch"]
