"""Forward and backward, with gradients for the input and all weights."""

import pytest
from shapes import MORE_ROWS, SHAPES, Pair, shape_id, training


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
def test_training(in_turn, shape):
    in_turn(*Pair.of(*shape).calls(training))


@pytest.mark.parametrize("row", MORE_ROWS, ids=lambda row: row.id)
def test_training_more(in_turn, row):
    in_turn(*row.pair().calls(training))
