"""Training on sequences of various lengths, packed or padded with lengths: only the valid steps are run."""

import statistics
from functools import partial

import pytest
import torch
from shapes import KINDS, Pair, shape_id, training
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

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
    note_share(benchmark, times, lengths, shape[0])


def note_share(benchmark, times, lengths, T):
    valid = lengths.float().mean().item() / T
    ours, padded = (statistics.median(times[name]) for name in ("rnnfast", "rnnfast padded"))
    benchmark.extra_info.update({"valid": valid, "packed / (valid x padded)": ours / (valid * padded)})


@pytest.mark.parametrize("batch_first", [False, True], ids=["time_first", "batch_first"])
@pytest.mark.parametrize("kind", KINDS)
def test_lengths(benchmark, in_turn, kind, batch_first):
    T, B, H = SHAPES[0]
    pair, lengths = Pair.of(kind, T, B, H, batch_first=batch_first), random_lengths(T, B)
    lengths = lengths[torch.randperm(B)]

    def packing(x):
        packed = pack_padded_sequence(x, lengths, batch_first=batch_first, enforce_sorted=False)
        return pad_packed_sequence(pair.peer(packed)[0], batch_first=batch_first)

    times = in_turn(
        lambda: training(partial(pair.ours, lengths=lengths), pair, [pair.ours]),
        {
            "torch.nn": lambda: training(packing, pair, [pair.peer]),
            "rnnfast padded": lambda: training(pair.ours, pair),
        },
    )
    if times:
        note_share(benchmark, times, lengths, T)
