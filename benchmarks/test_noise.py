"""Training with noise on the states, or with layer normalisation: beside without, and beside a loop over steps."""

import pytest
import torch
import torch.nn.functional as F
from shapes import KINDS, Pair, shape_id, training
from torch import nn

import rnnfast

SHAPES = [(100, 1, 256), (128, 8, 64), (100, 32, 128), (100, 64, 256)]
NOISE = dict(recurrent_dropout=dict(recurrent_dropout=0.25), zoneout=dict(zoneout=0.1))


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("kind", KINDS)
def test_noise(in_turn, kind, noise, shape):
    pair, (_, _, H) = Pair.of(kind, *shape), shape
    noisy = getattr(rnnfast, kind)(H, H, **NOISE[noise])
    in_turn(lambda: training(noisy, pair), {"without noise": lambda: training(pair.ours, pair)})


class LayerNormLSTM(nn.Module):
    """What a program does without rnnfast: equations 20 to 22 of Ba, Kiros and Hinton, step by step."""

    def __init__(self, H):
        super().__init__()
        self.w_ih, self.w_hh = nn.Linear(H, 4 * H), nn.Linear(H, 4 * H, bias=False)
        self.of_x, self.of_h, self.of_c = nn.LayerNorm(4 * H), nn.LayerNorm(4 * H), nn.LayerNorm(H)

    def forward(self, x):
        gates, outputs = self.of_x(self.w_ih(x)), []
        h = c = x.new_zeros(x.shape[1:])
        for gates_t in gates:
            i, f, g, o = (gates_t + self.of_h(self.w_hh(h))).chunk(4, -1)
            c = F.sigmoid(f) * c + F.sigmoid(i) * F.tanh(g)
            h = F.sigmoid(o) * F.tanh(self.of_c(c))
            outputs.append(h)
        return torch.stack(outputs), (h, c)


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
def test_layer_norm(in_turn, shape):
    pair, (_, _, H) = Pair.of("LSTM", *shape), shape
    normalised, loop = rnnfast.LSTM(H, H, layer_norm=True), LayerNormLSTM(H)
    in_turn(
        lambda: training(normalised, pair),
        {
            "without normalisation": lambda: training(pair.ours, pair),
            "torch, step by step": lambda: training(loop, pair),
        },
    )
