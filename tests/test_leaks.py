"""Calls keep no memory: what a call allocates is freed after it."""

import ctypes
import gc
import sys

import pytest
import torch
from kinds import KINDS

import rnnfast

pytestmark = pytest.mark.usefixtures("collected_so_far")
WARM_UP, CALLS, TIMES = 60, 80, 3
T, B, SIZE = 5, 3, 8


class Mallinfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def in_use():
    """Bytes that malloc has given out."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        pytest.skip(f"{sys.platform}'s C library has no mallinfo2")
    mallinfo.restype = Mallinfo
    found = mallinfo()
    return found.uordblks + found.hblkhd


def forward(model, *inputs, **options):
    with torch.no_grad():
        model(*inputs, **options)


def training(model, *inputs, **options):
    output = model(*inputs, **options)[0]
    (output.data if isinstance(output, torch.nn.utils.rnn.PackedSequence) else output).sum().backward()


def calls():
    """Functions by what they call."""
    x, rows = torch.randn(T, B, SIZE), torch.randn(B, SIZE)
    lengths, reset = torch.tensor([2, 5, 4]), torch.rand(T, B) < 0.3
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    for kind, (name, options) in KINDS.items():
        layer = getattr(rnnfast, name)(SIZE, SIZE, bidirectional=True, **options)
        yield f"{kind} forward", lambda layer=layer: forward(layer, x)
        yield f"{kind} training", lambda layer=layer: training(layer, x)
        yield f"{kind} packed", lambda layer=layer: training(layer, packed)
        yield f"{kind} lengths", lambda layer=layer: training(layer, x, lengths=lengths)
    for name in ("RNNCell", "LSTMCell", "GRUCell"):
        cell = getattr(rnnfast, name)(SIZE, SIZE)
        yield name, lambda cell=cell: forward(cell, rows)
    noisy = rnnfast.LSTM(SIZE, SIZE, recurrent_dropout=0.2, bptt_clip=1.0)
    yield "options", lambda: training(noisy, x, reset=reset)
    small = rnnfast.quantize_weights(rnnfast.LSTM(SIZE, SIZE))
    yield "int8", lambda: forward(small, x)


@pytest.mark.parametrize("what", [name for name, _ in calls()])
def test_calls_keep_nothing(what):
    torch.set_num_threads(1)
    call = dict(calls())[what]
    for _ in range(WARM_UP):
        call()
    kept = []
    for _ in range(TIMES):
        gc.collect()
        before = in_use()
        for _ in range(CALLS):
            call()
        gc.collect()
        kept.append((in_use() - before) / CALLS)
    # What is kept by each call is there each time; what is kept once and for all is not. The smallest piece that
    # malloc gives out has 32 bytes with what it keeps about it.
    assert min(kept) < 16, kept
