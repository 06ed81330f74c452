"""Weights of 16 and of 8 bits beside float32, forward: where a step is as long as reading the weights takes."""

import copy

import pytest
import torch
from shapes import KINDS, Pair, forward, shape_id

import rnnfast

SHAPES = [(100, 1, 1024), (1, 1, 1024), (100, 1, 256), (100, 32, 256)]


def beside_float32(benchmark, in_turn, pair, layer, x):
    """A layer that stands for pair.ours, and how far its output is from that of the other."""
    small = Pair(layer, pair.peer, x, pair.dy)
    with torch.no_grad():
        exact, output = pair.ours(pair.x)[0], layer(x)[0].float()
    error = (output - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    in_turn(lambda: forward(layer, small), {"rnnfast float32": lambda: forward(pair.ours, pair)})
    benchmark.extra_info["relative error"] = error.item()


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16(benchmark, in_turn, kind, shape):
    pair = Pair.of(kind, *shape)
    beside_float32(benchmark, in_turn, pair, copy.deepcopy(pair.ours).bfloat16(), pair.x.bfloat16())


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
@pytest.mark.parametrize("kind", KINDS)
def test_int8(benchmark, in_turn, kind, shape):
    pair = Pair.of(kind, *shape)
    beside_float32(benchmark, in_turn, pair, rnnfast.quantize_weights(pair.ours), pair.x)
