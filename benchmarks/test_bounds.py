"""What noting the norms of the gradients of states costs a training step, and clipping them: beside neither."""

import copy

import pytest
from shapes import KINDS, SHAPES, Pair, shape_id, training

from rnnfast.lab import record_gradients


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
@pytest.mark.parametrize("kind", KINDS)
def test_recording(in_turn, kind, shape):
    pair = Pair.of(kind, *shape)
    plain = copy.deepcopy(pair.ours)
    with record_gradients(pair.ours):
        in_turn(lambda: training(pair.ours, pair), {"not recorded": lambda: training(plain, pair)})


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
@pytest.mark.parametrize("kind", KINDS)
def test_clipping(in_turn, kind, shape):
    pair = Pair.of(kind, *shape)
    plain = copy.deepcopy(pair.ours)
    pair.ours.bptt_clip = 1.0
    in_turn(lambda: training(pair.ours, pair), {"not clipped": lambda: training(plain, pair)})
