"""The kinds of layer that the tests go through, their states and errors whatever the kind."""

import warnings
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import nn

import rnnfast
from rnnfast import _library

KINDS = {
    "RNN": ("RNN", {}),
    "LSTM": ("LSTM", {}),
    "LSTM with projection": ("LSTM", dict(proj_size=3)),
    "GRU": ("GRU", {}),
}


def make(kind, *args, package=rnnfast, **options):
    """A layer of a kind, or what has that name, ours or torch.nn's."""
    name, own = KINDS.get(kind, (kind, {}))
    return getattr(package, name)(*args, **own, **options)


def states(hx):
    """[h], or [h, c] of an LSTM."""
    return [*hx] if isinstance(hx, tuple) else [hx]


def state_sizes(layer):
    """Features of h, and of an LSTM's c."""
    return [layer.proj_size or layer.hidden_size, layer.hidden_size][: 2 if layer.mode == "LSTM" else 1]


def random_hx(layer, *lead, wider=0):
    """An initial state of shape (*lead, P), of an LSTM with one of shape (*lead, H); `wider` than it should be."""
    hx = [torch.randn(*lead, size + wider, dtype=layer.weight_hh_l0.dtype) for size in state_sizes(layer)]
    return tuple(hx) if layer.mode == "LSTM" else hx[0]


def assert_same_error(kind, call):
    """That `call`, handed our constructor, raises what it raises with torch.nn's: type and message."""
    raised = []
    for package in (nn, rnnfast):
        with pytest.raises((ValueError, RuntimeError, TypeError)) as error:
            call(partial(make, kind, package=package))
        raised.append((error.type, str(error.value)))
    theirs, ours = raised
    assert ours == theirs


@contextmanager
def in_plain_torch():
    """Layers as they are where no kernels are built."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "rnnfast: no compiled kernel")
        patch.setattr(_library, "ISA", None)
        yield
