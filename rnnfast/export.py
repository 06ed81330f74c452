"""Exported programs: what the operators are made of, for programs that are to run without rnnfast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from . import _autograd, _library, reference
from ._noise import Rates


def decompositions() -> dict[Any, Callable[..., Any]]:
    """rnnfast's operators in terms of torch's, step by step.

    For :meth:`torch.export.ExportedProgram.run_decompositions`, so that a program runs where rnnfast is not
    installed, or goes to a backend that does not know it. Loops are unrolled: the number of steps must be fixed in
    the export, the rows of the batch may vary.

    Raises:
        RuntimeError: where no kernels are built.
        NotImplementedError: in ``run_decompositions``, if the number of steps varies, a sequence is packed or
            gradients are clipped.

    Example:
        >>> batch = torch.export.Dim("batch")
        >>> program = torch.export.export(rnn, (torch.randn(5, 3, 10),), dynamic_shapes=({1: batch},))
        >>> program = program.run_decompositions(rnnfast.export.decompositions())
    """
    if _library.ISA is None:
        raise RuntimeError(f"decompositions: got no compiled library. {_library.HOW_TO_BUILD}")
    return {_autograd.op: _recurrence, _autograd.op_cell: lambda *args: list(_autograd.plain_cell(*args))}


def _recurrence(
    input: Tensor,
    w_ih: Tensor | None,
    w_hh: Tensor,
    w_hr: Tensor | None,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    cell: str,
    direction: int = 0,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
    saves: bool = False,
    stretches: Tensor | None = None,
    seed: Tensor | None = None,
    *,
    noise: Rates | None = None,
    clip: float | None = None,
    **options: Any,
) -> list[Tensor]:
    if clip is not None:
        raise NotImplementedError(f"bptt_clip: got {clip}, which torch's operators do not have, expected None")
    T = input.size(1 if batch_first else 0)
    if batch_sizes is not None or stretches is not None or not isinstance(T, int) or saves:
        got = (
            "a packed sequence"
            if batch_sizes is not None or stretches is not None
            else "all that BPTT needs"
            if saves
            else "a dynamic number"
        )
        raise NotImplementedError(f"steps: got {got}, expected a fixed number of steps of a padded sequence")
    tensors = (input, w_ih, w_hh, w_hr, b_ih, b_hh, h0, c0)
    results = reference.layer(*tensors, cell, direction, batch_first, noise=noise, seed=seed)
    return list(results[: _autograd.results_of(cell)])


__all__ = ["decompositions"]
