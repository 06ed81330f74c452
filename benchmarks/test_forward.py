"""Forward without gradients."""

import pytest
from shapes import SHAPES, Pair, forward, shape_id


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
def test_forward(in_turn, shape):
    in_turn(*Pair.of(*shape).calls(forward))
