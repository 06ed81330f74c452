"""Batches whose rows have lengths that the host does not know: on a GPU, or not yet when a program is compiled.

All T steps of all rows are run, and what lies beyond a row's length is masked: nothing waits for the device, and
shapes do not depend on values. Rows of a reverse direction are turned to the end of the sequence first, so that
it begins within them, as the other one does; whatever follows a row's last step has no effect on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _library
from .._torch import is_batched, is_compiling, is_traced_by_jit
from ..sequences import are_lengths, checked_lengths


def are_unknown(lengths: Any) -> bool:
    """Whether these are lengths whose values the host has not."""
    if not isinstance(lengths, Tensor):
        return False
    return not lengths.is_cpu or is_compiling() or is_traced_by_jit() is not None or is_batched(lengths)


class MaskedBatch:
    """A padded batch that is run as it is.

    Args:
        input: (T, B, I), or (B, T, I) with `batch_first`; bidirectional: whether its layers are.
        lengths: (B,) integers, taken to be 0 where they are less and T where they are more; under RNNFAST_STRICT=1
            that is an error instead, for which the host waits, unless a program is compiled.
    """

    table = None

    def __init__(self, input: Tensor, batch_first: bool, bidirectional: bool, lengths: Tensor) -> None:
        rows, steps = input.shape[:2] if batch_first else (input.size(1), input.size(0))
        are_lengths(lengths, rows)
        if steps == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        if _library.strict() and not (lengths.is_meta or is_compiling() or is_batched(lengths)):
            checked_lengths(lengths, rows, steps)
        self.batch_first, self.bidirectional = batch_first, bidirectional
        # Places in (T, B): steps that there are, and from where a row is taken to stand at the end, and back.
        self.lengths = lengths.detach().to(input.device, torch.int64).clamp(0, steps)
        step = torch.arange(steps, device=input.device).unsqueeze(1)
        self.missing = step >= self.lengths
        self.to_end, self.from_end = (step + self.lengths) % steps, (step - self.lengths) % steps
        self.input = self.masked(input, batch_first)

    def masked(self, values: Tensor, batch_first: bool) -> Tensor:
        """(T, B, W) or (B, T, W) values, zero beyond each row's length."""
        return values.masked_fill(_turned(self.missing, batch_first).unsqueeze(2), 0)

    def recording(self, recorder: Any) -> Any:
        """A layer's recorder, who is shown norms where their steps are."""

        def of_layer(layer: int, x: Tensor, bidirectional: bool, batch_first: bool, batch_sizes: Any) -> Any:
            take = recorder(layer, x, bidirectional, batch_first, batch_sizes)
            return (
                None
                if take is None
                else lambda norms: take(self._in_place(norms.unsqueeze(-1), batch_first).squeeze(-1))
            )

        return None if recorder is None else of_layer

    def run(
        self, layers: Callable[..., Any], states: tuple[Any, Any], collected: list[Any] | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """`layers` over the batch: output, zero where there are no steps, and each row's last states."""
        return layers(self.input, *states, self.batch_first, None, collected, self)

    def recurrence(
        self, run: Callable[..., Any], x: Tensor, weights: Any, h0: Any, c0: Any, options: Any, all_c: bool
    ) -> Any:
        """What `run` gives for one layer, of rows that end at their lengths: output, h_n, of an LSTM c_n.

        Args: options: of :func:`rnnfast.ops.recurrence`, with all c; all_c: whether they are returned as well.
        """
        batch_first = options[2]
        if self.bidirectional:  # each direction has an input of its own, and so what it is projected to
            w_ih, *others = weights
            at_end = _rows_taken(x, self.to_end, batch_first)
            gates = [F.linear(own, w) for own, w in zip((x, at_end), w_ih.chunk(2), strict=True)]
            x, weights = torch.stack(gates, -2), (None, *others)
        y, _, *of_c = run(x, weights, h0, c0, options)
        by_directions = (*x.shape[:2], 2 if self.bidirectional else 1, -1)
        found = [self._in_place(s.reshape(by_directions), batch_first) for s in (y, *of_c[1:])]
        last = [self._last(s, s0, batch_first) for s, s0 in zip(found, (h0, c0), strict=False)]
        return [found[0].flatten(-2), *last, *(found[1:] if all_c else [])]

    def _in_place(self, values: Tensor, batch_first: bool) -> Tensor:
        """(T, B, D, W) and so on, as a layer had them: of the steps that there are, zero elsewhere."""
        each = list(values.unbind(2))
        if self.bidirectional:
            each[1] = _rows_taken(each[1], self.from_end, batch_first)
        return torch.stack([self.masked(s, batch_first) for s in each], 2).view(values.shape)

    def _last(self, found: Tensor, given: Tensor | None, batch_first: bool) -> Tensor:
        """Each row's state at its end, (D, B, W); of one without steps what it began with."""
        first, *reverse = (found.transpose(0, 1) if batch_first else found).unbind(2)
        at = (self.lengths - 1).clamp_min(0).view(1, -1, 1).expand(-1, -1, first.size(2))
        ends = torch.stack([first.gather(0, at).squeeze(0), *(s[0] for s in reverse)])
        if given is None:  # zero, as what is masked
            return ends
        return torch.where((self.lengths > 0).unsqueeze(1), ends, given.to(ends.dtype))


def _turned(places: Tensor, batch_first: bool) -> Tensor:
    return places.t() if batch_first else places


def _rows_taken(values: Tensor, steps: Tensor, batch_first: bool) -> Tensor:
    """(T, B, W) and so on, at these steps, (T, B), of each row."""
    index = _turned(steps, batch_first).unsqueeze(2).expand(-1, -1, values.size(2))
    return values.gather(1 if batch_first else 0, index)


__all__ = ["MaskedBatch", "are_unknown"]
