"""Batches whose rows are of their own lengths, or are reset on the way: cut into stretches and packed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import ops


def checked_lengths(lengths: Any, batch: int, steps: int) -> Tensor:
    """`lengths` on the CPU, once they are found to fit."""
    if not isinstance(lengths, Tensor):
        raise TypeError(f"lengths: got {type(lengths).__name__}, expected a tensor")
    if lengths.shape != (batch,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ValueError(
            f"lengths: got {lengths.dtype} of shape {tuple(lengths.shape)}, expected torch.int64 of shape "
            f"({batch},)"
        )
    lengths = lengths.detach().to("cpu", torch.int64)
    wrong = ((lengths < 0) | (lengths > steps)).nonzero()
    if len(wrong) > 0:
        row = int(wrong[0])
        raise ValueError(f"lengths: got {int(lengths[row])} in row {row}, expected 0 to {steps}")
    return lengths


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


class Batch:
    """A padded batch that is cut into stretches.

    Args:
        input: (T, B, I), or (B, T, I) with `batch_first`; bidirectional: whether its layers are.
        lengths, reset: as a layer's forward takes them.
    """

    def __init__(
        self, input: Tensor, batch_first: bool, bidirectional: bool, *, lengths: Any = None, reset: Any = None
    ) -> None:
        self.input, self.directions = input, 2 if bidirectional else 1
        rows, steps = input.shape[:2] if batch_first else (input.size(1), input.size(0))
        self.has_lengths, self.has_resets = lengths is not None, reset is not None
        lengths = None if lengths is None else checked_lengths(lengths, rows, steps)
        reset = None if reset is None else checked_reset(reset, rows, steps, batch_first)
        self.stretches = ops.stretches(lengths, reset, steps, rows, batch_first)

    def check_others(self, others: tuple[Any, Any], h_shape: tuple[int, ...], hidden_size: int) -> None:
        """Whether `reset_state` fits."""
        for s, size in zip(others, (h_shape[2], hidden_size), strict=True):
            if s is not None and (
                s.dim() != 3 or s.size(0) != h_shape[0] or s.size(1) not in (1, h_shape[1]) or s.size(2) != size
            ):
                expected = f"({h_shape[0]}, {h_shape[1]} or 1, {size})"
                raise ValueError(f"reset_state: got shape {tuple(s.shape)}, expected {expected}")

    def run(
        self,
        layers: Callable[..., Any],
        states: tuple[Any, Any],
        others: tuple[Any, Any],
        collected: list[Any] | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Packed `layers` over the stretches: what is padded again, with zeros, and each row's last states."""
        s, lead, device = self.stretches, self.input.shape[:2], self.input.device
        index, inverse = s.index.to(device), s.inverse.to(device)
        data = ops.rows_at(self.input, index, inverse, index.shape)
        h0, c0 = [self._entering(given, other) for given, other in zip(states, others, strict=True)]
        output, h_n, c_n = layers(data, h0, c0, False, s.batch_sizes, collected)

        def padded(packed: Tensor) -> Tensor:
            return ops.rows_at(packed, inverse, index, lead)

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
        empty = self.stretches.empty.to(found.device).unsqueeze(1)
        before = found.new_zeros(1, 1, 1) if given is None else given.to(found.dtype)
        if found.size(1) == 0:  # no steps at all
            return before.expand(found.size(0), len(empty), found.size(2))
        if self.directions == 1:
            ends = found.index_select(1, self.stretches.ends[0].to(found.device))
        else:
            last = self._by_direction(self.stretches.ends, found)
            ends = found.gather(1, last.expand(-1, -1, found.size(2)))
        return torch.where(empty, before, ends) if self.has_lengths else ends


__all__ = ["Batch"]
