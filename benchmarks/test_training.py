"""Forward and backward, with gradients for the input and all weights."""

import pytest
from shapes import SHAPES, Pair, shape_id, training


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
def test_training(in_turn, shape):
    in_turn(*Pair.of(*shape).calls(training))
