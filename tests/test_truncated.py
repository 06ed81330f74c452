"""rnnfast.tbptt: chunks of a long sequence, the state carried and detached."""

import warnings

import pytest
import torch
from kinds import make, random_hx, states
from torch import nn

import rnnfast

T, B = 11, 2


@pytest.mark.parametrize("form", ["time", "batch_first", "unbatched"])
@pytest.mark.parametrize("package", [rnnfast, nn])
def test_chunks_are_the_whole(kind, package, form):
    layer = make(kind, 3, 4, num_layers=2, batch_first=form == "batch_first", package=package)
    shape = {"time": (T, B, 3), "batch_first": (B, T, 3), "unbatched": (T, 3)}[form]
    x, hx = torch.randn(shape), random_hx(layer, 2, *([] if form == "unbatched" else [B]))
    time = 1 if form == "batch_first" else 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LSTM with projections")  # of torch's
        outputs, lasts, parts = zip(*rnnfast.tbptt(layer, x, 4, x.square(), hx=hx), strict=True)
        expected, expected_last = layer(x, hx)
    assert [p.size(time) for p in parts] == [4, 4, 3]
    torch.testing.assert_close(torch.cat(outputs, time), expected)
    torch.testing.assert_close(states(lasts[-1]), states(expected_last))
    torch.testing.assert_close(torch.cat(parts, time), x.square())


def test_gradients_stay_within_chunks(kind):
    layer, x = make(kind, 3, 4, dtype=torch.float64), torch.randn(T, B, 3, dtype=torch.float64)
    for output, _ in rnnfast.tbptt(layer, x, 4):
        output.sin().sum().backward()
    found = [p.grad for p in layer.parameters()]
    hx, total = None, 0
    for part in x.split(4):
        hx = hx if hx is None else tuple(s.detach() for s in hx) if isinstance(hx, tuple) else hx.detach()
        output, hx = layer(part, hx)
        total = total + output.sin().sum()
    torch.testing.assert_close(found, list(torch.autograd.grad(total, list(layer.parameters()))))


def test_what_does_not_fit():
    layer, x = rnnfast.GRU(3, 4), torch.randn(T, B, 3)
    with pytest.raises(ValueError, match="chunk: got 0, expected a positive number of steps"):
        rnnfast.tbptt(layer, x, 0)
    with pytest.raises(ValueError, match="layer: got a bidirectional one"):
        rnnfast.tbptt(rnnfast.GRU(3, 4, bidirectional=True), x, 4)
    with pytest.raises(ValueError, match=r"along: got shape \(10, 2\), expected 11 steps in dimension 0"):
        rnnfast.tbptt(layer, x, 4, torch.zeros(10, B))
    with pytest.raises(TypeError, match="layer: got Linear, expected a recurrent layer, with batch_first"):
        rnnfast.tbptt(nn.Linear(3, 3), x, 4)
    with pytest.raises(TypeError, match="x: got PackedSequence, expected a tensor"):
        rnnfast.tbptt(layer, nn.utils.rnn.pack_sequence([torch.zeros(2, 3)]), 4)
    with pytest.raises(TypeError, match="along: got list, expected tensors"):
        rnnfast.tbptt(layer, x, 4, [1])


def test_a_wrapped_layer():
    """As DistributedDataParallel wraps one."""

    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *args):
            return self.module(*args)

    layer, x = rnnfast.GRU(3, 4, batch_first=True), torch.randn(T, T, 3)
    outputs = [output for output, _ in rnnfast.tbptt(Wrapper(layer), x, 4)]
    torch.testing.assert_close(torch.cat(outputs, 1), layer(x)[0])
    with pytest.raises(ValueError, match="layer: got a bidirectional one"):
        rnnfast.tbptt(Wrapper(rnnfast.GRU(3, 4, bidirectional=True)), x, 4)
