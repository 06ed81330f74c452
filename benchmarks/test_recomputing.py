"""Training that keeps states only: what it takes beside one that keeps all, in time and in memory."""

import pytest
import torch
from shapes import KINDS, Pair, shape_id, training

import rnnfast

SHAPES = [(100, 64, 256), (1000, 8, 128)]
LONG = (2_000_000, 1, 64)
MB = 1e6


def kept(layer, x):
    """Bytes kept for the backward pass beside input, output and weights."""
    found = {}

    def note(t):
        found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        output, _ = layer(x.detach().requires_grad_())
    for t in (x, output, *layer.parameters()):
        found.pop(t.untyped_storage().data_ptr(), None)
    return sum(found.values()), output.untyped_storage().nbytes()


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
@pytest.mark.parametrize("kind", KINDS)
def test_recomputing(benchmark, in_turn, kind, shape):
    pair, (T, *_) = Pair.of(kind, *shape), shape
    ways = {"recompute": dict(recompute=True), "checkpoint_every": dict(checkpoint_every=round(T**0.5))}
    layers = {name: getattr(rnnfast, kind)(shape[2], shape[2], **way) for name, way in ways.items()}
    in_turn(
        lambda: training(layers["recompute"], pair),
        {
            "all kept": lambda: training(pair.ours, pair),
            "checkpoint_every": lambda: training(layers["checkpoint_every"], pair),
        },
    )
    of_all, output = kept(pair.ours, pair.x)
    for name, layer in layers.items():
        left = kept(layer, pair.x)[0]
        benchmark.extra_info[f"{name}, kept beside input and output"] = left / of_all if of_all else 0
        benchmark.extra_info[f"{name}, kept with the output"] = (left + output) / (of_all + output)


@pytest.mark.parametrize("kind", KINDS)
def test_very_long(benchmark, kind):
    """A training step of two million steps; how long it takes says little, that it ends says something."""
    T, B, H = LONG
    layer, x = getattr(rnnfast, kind)(H, H, checkpoint_every=2000), torch.randn(T, B, H)

    def step():
        layer(x)[0].sum().backward()
        layer.zero_grad(set_to_none=True)

    benchmark.pedantic(step, rounds=1)
