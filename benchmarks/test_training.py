"""Forward and backward, with gradients for the input and all weights."""

import pytest
from shapes import KINDS, MORE_ROWS, SHAPES, Pair, shape_id, training


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
@pytest.mark.parametrize("kind", KINDS)
def test_training(in_turn, kind, shape):
    in_turn(*Pair.of(kind, *shape).calls(training))


@pytest.mark.parametrize("row", MORE_ROWS, ids=lambda row: row.id)
@pytest.mark.parametrize("kind", KINDS)
def test_training_more(in_turn, kind, row):
    in_turn(*row.pair(kind).calls(training))
