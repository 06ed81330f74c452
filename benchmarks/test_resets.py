"""Training on sequences with episode ends inside: a reset mask beside none, and beside a loop over steps."""

from functools import partial

import pytest
import torch
from shapes import KINDS, Pair, shape_id, training
from torch import nn

SHAPES = [(128, 8, 64), (100, 32, 128), (1000, 8, 128)]
PROBABILITY = 1 / 50  # of a reset, in each step of a row


def stepping(cells, x, reset):
    """A loop over steps, as in agents that reset their states when an episode ends."""
    state = (x.new_zeros(x.size(1), cells.hidden_size),) * (2 if isinstance(cells, nn.LSTMCell) else 1)
    keep, outputs = (~reset).to(x.dtype).unsqueeze(2), []
    for t in range(len(x)):
        state = tuple(s * keep[t] for s in state)
        found = cells(x[t], state if len(state) > 1 else state[0])
        state = found if isinstance(found, tuple) else (found,)
        outputs.append(state[0])
    return torch.stack(outputs)


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
@pytest.mark.parametrize("kind", KINDS)
def test_resets(in_turn, kind, shape):
    pair = Pair.of(kind, *shape)
    cells = getattr(nn, kind + "Cell")(shape[2], shape[2])
    reset = torch.rand(shape[:2]) < PROBABILITY
    in_turn(
        lambda: training(partial(pair.ours, reset=reset), pair, [pair.ours]),
        {
            "without resets": lambda: training(pair.ours, pair),
            f"nn.{kind}Cell": lambda: training(lambda x: (stepping(cells, x, reset), None), pair, [cells]),
        },
    )
