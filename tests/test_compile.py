"""torch.compile: whole graphs, forward and training, without a break and without compiling at each new size."""

import pytest
import torch
from kinds import KINDS, make, random_hx, states
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import rnnfast
from rnnfast import lab


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


def loss_of(module, *args):
    output, last = module(*args)
    output = output.data if isinstance(output, PackedSequence) else output
    return output.sin().sum() + sum(s.cos().sum() for s in states(last))


def training_step(layer, function, x, *args):
    """The loss and all gradients."""
    layer.zero_grad()
    x = x.clone().requires_grad_()
    loss = function(x, *args)
    loss.backward()
    return [loss.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())]


OPTIONS = dict(num_layers=2, bidirectional=True, batch_first=True)


@pytest.mark.parametrize("kind", [k if k == "LSTM" else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
def test_training_with_inductor(kind):
    layer = make(kind, 3, 4, **OPTIONS)
    x, hx = torch.randn(2, 5, 3), random_hx(layer, 4, 2)

    def loss(x, hx):
        return loss_of(layer, x, hx)

    compiled = torch.compile(loss, fullgraph=True)
    torch.testing.assert_close(training_step(layer, compiled, x, hx), training_step(layer, loss, x, hx))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, hx), loss(x, hx))


@pytest.mark.parametrize("trains", [True, False])
def test_few_graphs_serve_all_sizes(kind, trains):
    layer = make(kind, 3, 4, **OPTIONS).requires_grad_(trains)
    counter = CompileCounterWithBackend("aot_eager")

    def loss(x):
        return loss_of(layer, x)

    compiled = torch.compile(loss, backend=counter, fullgraph=True)
    for B, T in ((2, 5), (2, 7), (3, 7), (4, 9), (6, 11), (9, 20), (17, 2)):
        x = torch.randn(B, T, 3)
        if trains:
            torch.testing.assert_close(training_step(layer, compiled, x), training_step(layer, loss, x))
        else:
            torch.testing.assert_close(compiled(x), loss(x))
    assert counter.frame_count <= 3  # for one size, for any number of steps, for any of steps and rows


@pytest.mark.parametrize("with_hx", [True, False])
@pytest.mark.parametrize("trains", [True, False])
def test_packed_sequences(kind, trains, with_hx):
    layer = make(kind, 3, 4, **OPTIONS).requires_grad_(trains)
    lead = layer.num_layers * (2 if layer.bidirectional else 1)

    def loss(data, batch_sizes, hx):
        return loss_of(layer, PackedSequence(data, batch_sizes), hx)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for lengths in ([4, 3, 1], [5, 5, 2, 1], [7, 2]):
        packed = pack_sequence([torch.randn(n, 3) for n in lengths])
        args = packed.data, packed.batch_sizes, random_hx(layer, lead, len(lengths)) if with_hx else None
        if trains:
            torch.testing.assert_close(training_step(layer, compiled, *args), training_step(layer, loss, *args))
        else:
            torch.testing.assert_close(compiled(*args), loss(*args))


@pytest.mark.contrast
@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_where_torchs_layers_refuse(name):
    """Ours would be no news if they did not."""
    compiled = torch.compile(getattr(nn, name)(3, 4), backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        compiled(torch.randn(5, 2, 3))


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_a_loop_over_cells(name, recorded):
    cell = make(name, 3, 4).requires_grad_(recorded)

    def loop(xs):
        h = None
        for x in xs:
            h = cell(x, h)
        return sum(s.sin().sum() for s in states(h))

    compiled = torch.compile(loop, backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 2, 3)
    if recorded:
        torch.testing.assert_close(training_step(cell, compiled, x), training_step(cell, loop, x))
    else:
        torch.testing.assert_close(compiled(x), loop(x))


def test_dropout_autocast_and_clipped_gradients():
    layer = rnnfast.GRU(3, 4, num_layers=2, dropout=0.5, bptt_clip=0.01)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = torch.randn(5, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert compiled(x)[0].dtype == torch.bfloat16
    layer.dropout = 0.0
    found, expected = [training_step(layer, lambda x, f=f: f(x)[0].sum() * 10, x) for f in (compiled, layer)]
    torch.testing.assert_close(found, expected)
    layer.bptt_clip = None
    assert not torch.allclose(training_step(layer, lambda x: layer(x)[0].sum() * 10, x)[1], expected[1])


def test_every_state_by_the_functional_form():
    w_hh = torch.randn(16, 4).requires_grad_()

    def loss(gates, w_hh):
        _, c, _, c_n = rnnfast.functional.lstm(gates, w_hh)
        return c.sin().sum() + c_n.sum()

    gates = torch.randn(5, 2, 16)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found, expected = [torch.autograd.grad(f(gates, w_hh), w_hh) for f in (compiled, loss)]
    torch.testing.assert_close(found, expected)


def test_recorded_norms_survive():
    """Noted beside the graph, which is broken for it."""
    layer = rnnfast.LSTM(3, 4)
    x = torch.randn(5, 2, 3)
    noted = []
    for function in (layer, torch.compile(layer, backend="aot_eager")):
        with lab.record_gradients(layer) as recording:
            loss_of(function, x).backward()
        noted.append(recording["l0"])
    torch.testing.assert_close(*noted)


def test_second_derivatives_are_refused_not_zero():
    """As torch refuses them for all that is compiled ahead of time."""
    layer = rnnfast.GRU(3, 4)
    loss = loss_of(torch.compile(layer, backend="aot_eager"), torch.randn(5, 2, 3))
    (first,) = torch.autograd.grad(loss, layer.weight_hh_l0, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        first.sum().backward()


def test_transforms_within_the_graph(kind):
    layer = make(kind, 3, 4)
    weights = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(weights, x):
        return torch.func.functional_call(layer, weights, (x,))[0].sin().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0))
    xs = torch.randn(3, 5, 1, 3)
    compiled = torch.compile(per_sample, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(weights, xs), per_sample(weights, xs))
