"""Truncated backpropagation through time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def tbptt(layer: Any, x: Tensor, chunk: int, *along: Tensor, hx: Any = None) -> Iterator[tuple[Any, ...]]:
    r"""Runs a layer over a long sequence, a chunk of steps at a time; gradients stay within chunks.

    The state is carried from chunk to chunk and detached between them (Williams and Peng, "An efficient
    gradient-based algorithm for on-line training of recurrent network trajectories", Neural Computation 2, 1990).

    Args:
        layer: a recurrent layer of one direction, torch.nn's or rnnfast's, also in DistributedDataParallel.
        x: (T, B, I), (B, T, I) with the layer's `batch_first`, or (T, I).
        chunk: steps of a chunk; the last one may have fewer.
        along: what is cut like `x`, targets for instance; the same axis is time.
        hx: initial state, as the layer takes it.

    Yields:
        For each chunk, output, last state with its graph, and the chunk of each of `along`.

    Raises:
        TypeError: for a layer without `batch_first`, or what is no tensor.
        ValueError: for a chunk that is not positive, a bidirectional layer, or other numbers of steps in `along`.

    Example:
        >>> rnn, x, target = rnnfast.LSTM(3, 8), torch.randn(1000, 2, 3), torch.randn(1000, 2, 8)
        >>> for output, _, part in rnnfast.tbptt(rnn, x, 100, target):
        ...     (output - part).square().mean().backward()
    """
    if chunk < 1:
        raise ValueError(f"chunk: got {chunk}, expected a positive number of steps")
    if not isinstance(x, Tensor):
        raise TypeError(f"x: got {type(x).__name__}, expected a tensor")
    inner = layer
    while not hasattr(inner, "batch_first") and hasattr(inner, "module"):  # as DistributedDataParallel has it
        inner = inner.module
    if not hasattr(inner, "batch_first") or not hasattr(inner, "bidirectional"):
        raise TypeError(f"layer: got {type(layer).__name__}, expected a recurrent layer, with batch_first")
    if inner.bidirectional:
        raise ValueError("layer: got a bidirectional one, expected one direction, for the other begins at the end")
    time = 1 if inner.batch_first and x.dim() == 3 else 0
    for other in along:
        if not isinstance(other, Tensor):
            raise TypeError(f"along: got {type(other).__name__}, expected tensors")
        if other.dim() <= time or other.size(time) != x.size(time):
            raise ValueError(
                f"along: got shape {tuple(other.shape)}, expected {x.size(time)} steps in dimension {time}, as x "
                "has"
            )
    return _chunks(layer, x, chunk, along, hx, time)


def _chunks(layer: Any, x: Tensor, chunk: int, along: tuple[Tensor, ...], hx: Any, time: int) -> Iterator[Any]:
    for parts in zip(*(t.split(chunk, time) for t in (x, *along)), strict=True):
        output, hx = layer(parts[0], hx)
        yield output, hx, *parts[1:]
        hx = tuple(s.detach() for s in hx) if isinstance(hx, tuple) else hx.detach()


__all__ = ["tbptt"]
