"""Layers of bfloat16 beside torch.nn's of bfloat16; test_weights.py has them beside float32."""

import pytest
import torch
from shapes import KINDS, SHAPES, Pair, forward, shape_id, training


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_forward(in_turn, kind, shape):
    in_turn(*Pair.of(kind, *shape, dtype=torch.bfloat16).calls(forward))


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_training(in_turn, kind, shape):
    in_turn(*Pair.of(kind, *shape, dtype=torch.bfloat16).calls(training))
