"""Batches whose rows have lengths of their own, or are reset on the way: cut into stretches and packed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..sequences import Stretches, checked_lengths


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


def _of_nested(input: Tensor, lengths: Any, reset: Any) -> Stretches:
    """Its rows, whose steps lie one behind the other."""
    if lengths is not None or reset is not None:
        name = "reset" if lengths is None else "lengths"
        raise ValueError(f"{name}: got one with a nested input, whose rows have lengths already, expected None")
    if input.layout != torch.jagged or input.dim() != 3 or input.lengths() is not None:
        raise ValueError(
            f"input: got a nested tensor of layout {input.layout}, {input.dim()} dimensions"
            f"{', with holes' if input.layout == torch.jagged and input.lengths() is not None else ''}, expected "
            "torch.jagged, 3 dimensions and no holes"
        )
    offsets = input.offsets().detach().to("cpu", torch.int64)
    lengths = offsets.diff()
    steps = int(lengths.max()) if len(lengths) > 0 else 0
    found = ops.stretches(lengths, None, steps, len(lengths), True, packs=True)
    # From where each step lies in a padded array, which there is not, to where it does.
    index = offsets[found.index // max(steps, 1)] + found.index % max(steps, 1)
    inverse = torch.empty_like(index).index_copy(0, index, torch.arange(len(index)))
    return found._replace(index=index, inverse=inverse)


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
            self.input, self.offsets = input.values(), input.offsets()
            self.stretches = _of_nested(input, lengths, reset)
            return
        self.input = input
        rows, steps = input.shape[:2] if batch_first else (input.size(1), input.size(0))
        lengths = None if lengths is None else checked_lengths(lengths, rows, steps)
        reset = None if reset is None else checked_reset(reset, rows, steps, batch_first)
        self.stretches = ops.stretches(lengths, reset, steps, rows, batch_first, self.packs)

    @property
    def rows(self) -> Tensor:
        """How many rows there are, as batch_sizes would say for the first step."""
        return torch.tensor([len(self.stretches.empty)])

    def check_others(self, others: tuple[Any, Any], layers: int, *sizes: int) -> None:
        """Whether `reset_state` fits so many layers, and the sizes of h and c."""
        lead, rows = layers * self.directions, len(self.stretches.empty)
        for s, size in zip(others, sizes, strict=True):
            if s is not None and (s.dim() != 3 or s.size(1) not in (1, rows) or s.shape[::2] != (lead, size)):
                expected = f"({lead}, {rows} or 1, {size})"
                raise ValueError(f"reset_state: got shape {tuple(s.shape)}, expected {expected}")

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
            table = self.stretches.table
            output, h_n, c_n = layers(self.input, h0, c0, self.batch_first, None, collected, table)
            return output, self._leaving(h_n, states[0]), None if c_n is None else self._leaving(c_n, states[1])
        s, lead, device = self.stretches, self.input.shape[:-1], self.input.device
        index, inverse = s.index.to(device), s.inverse.to(device)
        data = ops.rows_at(self.input, index, inverse, index.shape)
        output, h_n, c_n = layers(data, h0, c0, False, s.batch_sizes, collected)

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
