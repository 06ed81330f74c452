"""Training on sequences of various lengths: packed, where only the valid steps are run, beside padded."""

import statistics

import pytest
import torch
from shapes import KINDS, Pair, shape_id, training
from torch.nn.utils.rnn import pack_padded_sequence

SHAPES = [(200, 32, 128)]
SEED = 0


def random_lengths(T, B):
    """B lengths of up to T, longest first, of which the first is T; about 60 % of the T B steps are valid."""
    lengths = torch.randint(T // 5, T + 1, (B,), generator=torch.Generator().manual_seed(SEED))
    lengths[0] = T
    return lengths.sort(descending=True).values


def training_packed(layer, packed, dy):
    """What shapes.training does, with a packed batch; dy has the shape of its data."""
    data = packed.data.detach().requires_grad_()
    output, _ = layer(packed._replace(data=data))
    output.data.backward(dy)
    layer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
@pytest.mark.parametrize("kind", KINDS)
def test_packed(benchmark, in_turn, kind, shape):
    pair, lengths = Pair.of(kind, *shape), random_lengths(*shape[:2])
    packed, dy = (pack_padded_sequence(tensor, lengths) for tensor in (pair.x, pair.dy))
    times = in_turn(
        lambda: training_packed(pair.ours, packed, dy.data),
        {
            "torch.nn": lambda: training_packed(pair.peer, packed, dy.data),
            "rnnfast padded": lambda: training(pair.ours, pair),
        },
    )
    if not times:
        return
    valid = lengths.float().mean().item() / shape[0]
    ours, padded = (statistics.median(times[name]) for name in ("rnnfast", "rnnfast padded"))
    benchmark.extra_info.update({"valid": valid, "packed / (valid x padded)": ours / (valid * padded)})
