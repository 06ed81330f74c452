"""Layers of a stack side by side on a GPU.

Of the layer below, a step needs no more than the steps up to it. So steps are taken in chunks, and while a layer
is at one of them the layer below is at the next, each in a stream of its own with its share of the
multiprocessors: a wavefront (Appleyard, Kocisky and Blunsom, "Optimizing performance of recurrent neural networks
on GPUs", arXiv:1604.01946).

Autograd runs the backward pass of each chunk in the stream of its forward pass, and has streams wait for each
other: it is a wavefront, too, as long as no array has gradients from several streams, which one would add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _library
from .._torch import forward_mode_is_on, in_dispatch_mode, is_compiling, is_traced_by_jit, transformed
from ..reference import GATES


class Wave(NamedTuple):
    """How many layers run side by side, and in how many chunks of steps."""

    abreast: int
    chunks: int


class Layer(NamedTuple):
    """A layer of a stack: its weights, the state that it begins with (h, of an LSTM h and c), and what runs it.

    call: takes x, the state's tensors, `weights`, and how many others run `beside`; gives y and the state.
    """

    weights: tuple[Any, ...]
    state: list[Any]
    call: Callable[..., Any]

    @property
    def tensors(self) -> list[Tensor]:
        return [t for t in (*self.weights, *self.state) if t is not None]


# Of a chunk of a layer, in microseconds, forward, and forward and backward: of the host, that calls operators; of
# the GPU, until it takes its first step. And how many multiply-adds the GPU makes a microsecond, at least, where
# products are those of all steps; of float32 in full, and rounded to TF32. Estimates; those of steps are the
# planner's.
HOST, START = (60, 260), (20, 60)
IN_A_GRAPH = (0, 0)  # which is captured once: of the host
PRODUCTS = {torch.float64: 1e7, torch.float32: 2e7, torch.bfloat16: 1.5e8, torch.float16: 1.5e8}
PRODUCTS_IN_TF32 = 1.5e8
LEAST_GAIN = 1.25
LEAST_STEPS = 16  # of a chunk
CHUNKS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
MOST_ABREAST = 8


def rate_of_products(dtype: torch.dtype, tf32: bool) -> float:
    """Multiply-adds a microsecond, of all steps."""
    return PRODUCTS_IN_TF32 if tf32 and dtype == torch.float32 else PRODUCTS[dtype]


def microseconds(
    wave: Wave,
    layers: int,
    steps: int,
    step: float,
    products: float,
    launches: int,
    trains: bool,
    captured: bool,
) -> float:
    """Of a stack, where a layer's step takes so long, and its share of the products of all steps.

    Args: launches: of a chunk, one after the other.
    """
    chunk = -(-steps // wave.chunks)
    # Products have what others leave of the GPU.
    of_gpu = chunk * (step + wave.abreast * products) + launches * START[trains]
    of_host = wave.abreast * (IN_A_GRAPH if captured else HOST)[trains]
    turns = wave.chunks + wave.abreast - 1
    return -(-layers // wave.abreast) * turns * max(of_gpu, of_host)


@lru_cache(maxsize=4096)
def plan(
    cell: str,
    T: int,
    B: int,
    H: int,
    layers: int,
    trains: bool,
    captured: bool,
    limits: _library.CudaLimits,
    dtype: torch.dtype,
    **options: Any,
) -> Wave | None:
    """The fastest, or None where layers had better run one after the other.

    Args: as of :func:`rnnfast.plan`; layers: of the stack; trains: whether there is a backward pass; captured:
        whether in a CUDA graph.
    """
    if T < 2 * LEAST_STEPS or B == 0:
        return None
    # W_ih x of all steps; backwards three more, for x, W_ih and W_hh.
    rate = rate_of_products(dtype, options["tf32"])
    products = (4 if trains else 1) * B * H * GATES[cell] * H / rate
    times: dict[Wave, float] = {}
    for abreast in range(1, min(layers, MOST_ABREAST) + 1):
        step, launches = 0.0, 1
        for pass_ in ("forward", "bptt")[: 1 + trains]:
            given: Any = dict(dtype=dtype, limits=limits, pass_=pass_, beside=abreast - 1, **options)
            found: Any = _library.plan(cell, T, B, H, device="cuda", **given)
            step += found.microseconds if found.schedule != "stepwise" else math.inf
            launches = max(launches, found.launches)
        if math.isinf(step):  # bound by the host's launches
            break
        for chunks in [n for n in CHUNKS if n * LEAST_STEPS <= T] if abreast > 1 else [1]:
            wave = Wave(abreast, chunks)
            times[wave] = microseconds(wave, layers, T, step, products, launches, trains, captured)
    if not times:
        return None
    best = min(times, key=lambda wave: times[wave])
    return best if times[best] * LEAST_GAIN <= times[Wave(1, 1)] else None


@lru_cache
def _limits(device: torch.device) -> _library.CudaLimits:
    return _library.CudaLimits.of(device)


def may_be(x: Tensor) -> bool:
    """Whether layers over a padded input may run side by side: called eagerly, on a GPU or where it is wished."""
    if is_compiling():  # first of all, for Dynamo reads no further then
        return False
    wished = _library.wished_chunks()
    if wished == 1 or (wished is None and not (x.is_cuda and _library.CUDA)):
        return False
    watched = transformed() or forward_mode_is_on() or is_traced_by_jit() is not None or in_dispatch_mode()
    return not watched and type(x) in (Tensor, torch.nn.Parameter) and x.dtype in _library.DTYPES


def planned(x: Tensor, axis: int, stack: list[Layer], cell: str, H: int, P: int) -> Wave | None:
    """That of a stack over such an input, whose steps lie along an axis.

    Args: P: units of the state where a projection makes them differ from H, otherwise 0.
    """
    T, B, wished = x.size(axis), x.size(1 - axis), _library.wished_chunks()
    tensors = [x, *(t for layer in stack for t in layer.tensors)]
    if any(t.device != x.device for t in tensors):  # which the operators say better
        return None
    if wished is not None:
        return Wave(len(stack), min(wished, T))
    trains = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    with torch.cuda.device(x.device):
        captured = torch.cuda.is_current_stream_capturing()
    tf32 = _library.precision(x.device, x.dtype) == "tf32"
    return plan(cell, T, B, H, len(stack), trains, captured, _limits(x.device), x.dtype, tf32=tf32, P=P)


def _streams_for(device: torch.device, layers: int) -> list[Any]:
    """A stream for each layer; the last one's is the caller's, which so has waited for all in the end.

    Of a caller's stream the others are the same at each call, for memory that a stream's tensors had is used again
    by its tensors; other callers' are others, for who shares them waits for the other, or is captured with it.
    """
    if device.type != "cuda":
        return [None] * layers
    own = torch.cuda.current_stream(device)
    further = _further.setdefault((device, own.stream_id), [])
    while len(further) < layers - 1:
        further.append(torch.cuda.Stream(device))
    return [*further[: layers - 1], own]


_further: dict[tuple[torch.device, int], list[torch.cuda.Stream]] = {}


class _Lanes:
    """Layers side by side, each in its stream; where there are none, on a CPU, as they are called."""

    def __init__(self, streams: list[Any]) -> None:
        self.streams = streams
        for lane in range(len(streams) - 1):
            self._wait(lane, len(streams) - 1)

    def stream(self, lane: int) -> AbstractContextManager[Any]:
        """What is called within runs in the lane's stream."""
        return torch.cuda.stream(self.streams[lane])

    def hand_on(self, t: Tensor, lane: int) -> None:
        """To the next lane, which waits for all that this one does before."""
        self._wait(lane + 1, lane)
        self.use(lane + 1, t)

    def use(self, lane: int, *tensors: Tensor | None) -> None:
        """Keeps the memory of what another stream allocated until the lane is done with it."""
        for t in tensors:
            if t is not None and self.streams[lane] is not None:
                t.record_stream(self.streams[lane])

    def _wait(self, lane: int, other: int) -> None:
        if self.streams[lane] is not None:
            self.streams[lane].wait_event(self.streams[other].record_event())


def run(x: Tensor, stack: list[Layer], wave: Wave, axis: int, dropout: float) -> tuple[Tensor, list[Any]]:
    """The output, and each layer's last states.

    Args:
        x: the input, whose steps lie along `axis`; dropout: probability of dropping a value between layers.
    """
    chunks, last = list(x.tensor_split(wave.chunks, axis)), []
    for first in range(0, len(stack), wave.abreast):
        group = stack[first : first + wave.abreast]
        drops = [dropout if first + k < len(stack) - 1 else 0.0 for k in range(len(group))]
        chunks, states = _side_by_side(chunks, group, drops)
        last += states
    return torch.cat(chunks, axis), last


def _side_by_side(chunks: list[Tensor], group: list[Layer], drops: list[float]) -> tuple[list[Tensor], list[Any]]:
    """The last layer's output by chunks, and each one's last states."""
    n, end = len(chunks), len(group) - 1
    states: list[Any] = [layer.state for layer in group]
    begun = [_begun(layer.weights) for layer in group]
    lanes = _Lanes(_streams_for(chunks[0].device, len(group)))
    weights = []
    for lane, layer in enumerate(group):
        lanes.use(lane, *layer.tensors, *(chunks if lane == 0 else ()))
        with lanes.stream(lane):
            weights.append(_for_each(begun[lane], n))
    values = list(chunks)  # of each chunk the output of the layer that was at it last
    for turn in range(n + end):
        # The last first: none is to wait for what the one below is at in the same turn.
        for lane in reversed(range(max(0, turn - n + 1), min(end, turn) + 1)):
            k = turn - lane
            with lanes.stream(lane):
                y, *states[lane] = group[lane].call(values[k], *states[lane], weights=weights[lane][k], beside=end)
                values[k] = F.dropout(y, drops[lane], training=True) if drops[lane] > 0 else y
            if lane < end:
                lanes.hand_on(values[k], lane)
    for lane in range(end):  # all that they did the caller's stream has waited for, with the last output
        lanes.use(end, *states[lane])
    return values, states


def _begun(weights: tuple[Any, ...]) -> list[Any]:
    """Views, with which gradients come back to the caller's stream."""
    return [w if w is None or not _is_recorded(w) else w.view_as(w) for w in weights]


def _for_each(weights: list[Any], chunks: int) -> list[tuple[Any, ...]]:
    """The weights for each chunk, whose gradients are added up in the present stream, with 16 bits in float32.

    A single view has them added up one after the other as they come, which takes the least memory.
    """

    def each(w: Any) -> Any:
        if w is None or not _is_recorded(w):
            return [w] * chunks
        return w.expand(chunks, *w.shape).unbind() if w.element_size() == 2 else [w.view_as(w)] * chunks

    return list(zip(*map(each, weights), strict=True))


def _is_recorded(w: Tensor) -> bool:
    return torch.is_grad_enabled() and w.requires_grad


__all__ = ["Layer", "Wave", "may_be", "plan", "planned", "run"]
