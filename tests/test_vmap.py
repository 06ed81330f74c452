"""torch.vmap: the operators' batching rules, against a loop over samples."""

from functools import partial

import pytest
import torch
from kinds import make, random_hx, states
from problems import KINDS as OPERATOR_KINDS
from problems import draw_kind
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.nn.utils.rnn import PackedSequence

import rnnfast
from rnnfast import _autograd

N = 3


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def looped(function, in_dims, *args):
    """What vmap is to give."""
    each = [
        function(*(a.select(d, n) if d is not None else a for a, d in zip(args, in_dims, strict=True)))
        for n in range(N)
    ]
    return [torch.stack(results) for results in zip(*each, strict=True)]


def outputs(results):
    return [t for t in results if isinstance(t, torch.Tensor)]


@pytest.fixture(params=["time", "batch", "packed"])
def layout(request):
    return request.param


@pytest.fixture(params=["x", "weights", "both", "all but x", "w_hh"])
def batched(request):
    return request.param


# A layer-normalised one runs in plain torch.
@pytest.fixture(params=[kind for kind in OPERATOR_KINDS if kind != "lstm normalised"])
def case(request, layout, batched):
    """The layer's operator as a function of its tensors, these with samples in some dimension, and where."""
    p = draw_kind(request.param, 4, 3, 4, 2, direction=2, layout=layout)
    w_ih, b_ih = randn(p.w_hh.size(0) * p.w_hh.size(1), 5), randn(*p.w_hh.shape[:2])
    x = randn(*p.gates.shape[:-2], 5)
    tensors = dict(x=x, w_ih=w_ih, w_hh=p.w_hh, w_hr=p.w_hr, b_ih=b_ih, b_hh=p.bias, h0=p.h0, c0=p.c0)
    wanted = {
        "x": ("x", "h0"),
        "weights": ("w_ih", "w_hh", "w_hr", "b_ih", "b_hh"),
        "both": ("x", "w_ih", "w_hh", "w_hr", "b_ih", "b_hh", "h0", "c0"),
        "all but x": ("w_ih", "w_hh", "w_hr", "b_ih", "b_hh", "h0", "c0"),
        "w_hh": ("w_hh",),
    }[batched]
    names = [name for name, t in tensors.items() if t is not None]
    args, dims = [], []
    for i, name in enumerate(names):
        dim = i % 2 if name in wanted else None
        t = tensors[name]
        args.append(t if dim is None else torch.stack([t + 0.1 * torch.randn_like(t) for _ in range(N)], dim))
        dims.append(dim)

    def function(*given):
        args = dict.fromkeys(tensors) | dict(zip(names, given, strict=True))
        return tuple(torch.ops.rnnfast.recurrence(*args.values(), *p.options, False, clip=p.clip))

    return function, args, dims


def test_results(case):
    function, args, dims = case
    torch.testing.assert_close([*vmap(function, tuple(dims))(*args)], looped(function, dims, *args))


def test_gradients_of_each_sample(case):
    function, args, dims = case

    def gradients(*args):
        return grad(lambda *args: sum(r.sin().sum() for r in function(*args)), tuple(range(len(args))))(*args)

    torch.testing.assert_close([*vmap(gradients, tuple(dims))(*args)], looped(gradients, dims, *args))


def test_gradients_by_samples_of_what_they_are_multiplied_with(case):
    """As in jacrev: one forward pass, many backward passes."""
    function, args, dims = case
    args = [t if d is None else t.select(d, 0) for t, d in zip(args, dims, strict=True)]
    results, pullback = vjp(function, *args)
    vs = tuple(randn(N, *r.shape) for r in results)
    expected = [
        torch.stack(each) for each in zip(*[pullback(tuple(v[n] for v in vs)) for n in range(N)], strict=True)
    ]
    torch.testing.assert_close([*vmap(pullback)(vs)], expected)


def test_gradients_through_gradients_of_each_sample(case):
    """Against torch.autograd, for torch.func's own gradient of a gradient could be wrong in the same way."""
    function, args, dims = case

    def loss(*args):
        return sum(r.sin().sum() for r in function(*args))

    def norm(*args):
        return sum(g.square().sum() for g in grad(loss, tuple(range(len(args))))(*args))

    def norm_by_autograd(*args):
        return sum(g.square().sum() for g in torch.autograd.grad(loss(*args), args, create_graph=True))

    def total(*args):
        return vmap(norm, tuple(dims))(*args).sum()

    leaves = tuple(a.clone().requires_grad_() for a in args)
    by_loop = sum(
        norm_by_autograd(
            *(a.select(d, n) if d is not None else a.view_as(a) for a, d in zip(leaves, dims, strict=True))
        )
        for n in range(N)
    )
    expected = torch.autograd.grad(by_loop, leaves)
    torch.testing.assert_close(grad(total, tuple(range(len(args))))(*args), expected)
    (found,) = torch.autograd.grad(total(*leaves), leaves[0])
    torch.testing.assert_close(found, expected[0])


def test_forward_mode_of_samples(case):
    function, args, dims = case

    def tangents(*args):
        return jvp(function, args, tuple(t.cos() for t in args))[1]

    torch.testing.assert_close([*vmap(tangents, tuple(dims))(*args)], looped(tangents, dims, *args))


def test_no_loop_over_samples(kind, monkeypatch):
    """However many samples, each pass calls the operator once a layer."""
    layer = make(kind, 3, 4, num_layers=2, bidirectional=True)
    calls = []
    for name in ("op", "op_bptt"):
        op = getattr(_autograd, name)
        monkeypatch.setattr(_autograd, name, lambda *a, op=op, **k: calls.append(type(a[0])) or op(*a, **k))
    weights = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(weights, x):
        return functional_call(layer, weights, (x,))[0].sin().sum()

    counts = []
    for samples in (2, 20):
        calls.clear()
        vmap(grad(loss), (None, 0))(weights, torch.randn(samples, 5, 1, 3))
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("packed", [True, False])
def test_layers_with_samples_in_samples(kind, packed):
    layer = make(kind, 3, 4, bidirectional=True, dtype=torch.float64).requires_grad_(False)
    hx = random_hx(layer, 2, 3)

    def function(x):
        output, last = layer(PackedSequence(x, torch.tensor([3, 2, 1])) if packed else x, hx)
        return (output.data if packed else output).sum(0), *states(last)

    xs = randn(2, N, 6, 3) if packed else randn(2, N, 5, 3, 3)
    nested = vmap(vmap(function))(xs)
    expected = [
        torch.stack([torch.stack([function(x)[i] for x in row]) for row in xs]) for i in range(len(nested))
    ]
    torch.testing.assert_close([*nested], expected)

    def gradient(x):
        return grad(lambda x: sum(t.sin().sum() for t in function(x)))(x)

    expected = torch.stack([torch.stack([gradient(x) for x in row]) for row in xs])
    torch.testing.assert_close(vmap(vmap(gradient))(xs), expected)


def test_an_ensemble(kind):
    """Models side by side, each with weights of its own: torch's tutorial on model ensembling."""
    models = [make(kind, 3, 4, num_layers=2, dtype=torch.float64) for _ in range(N)]
    weights, _ = torch.func.stack_module_state(models)
    x = randn(5, 2, 3)

    def call(weights, x):
        return functional_call(models[0], weights, (x,))[0]

    torch.testing.assert_close(vmap(call, (0, None))(weights, x), torch.stack([m(x)[0] for m in models]))


def test_a_hessian(kind):
    layer = make(kind, 2, 4, dtype=torch.float64).requires_grad_(False)

    def loss(x):
        return layer(x)[0].pow(3).sum()

    x = randn(2, 1, 2)
    torch.testing.assert_close(hessian(loss)(x), torch.autograd.functional.hessian(loss, x))
    torch.testing.assert_close(jacrev(jacrev(loss))(x), torch.autograd.functional.hessian(loss, x))


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells(name):
    cell = make(name, 3, 4, dtype=torch.float64)
    weights = {n: p.detach() for n, p in cell.named_parameters()}

    def loss(weights, x):
        h = functional_call(cell, weights, (x,))
        h = functional_call(cell, weights, (x.sin(), h))
        return sum(s.sin().sum() for s in states(h))

    xs = randn(N, 2, 3)
    found = vmap(grad(loss), (None, 0))(weights, xs)
    for n, x in enumerate(xs):
        expected = torch.autograd.grad(loss(dict(cell.named_parameters()), x), list(cell.parameters()))
        torch.testing.assert_close([g[n] for g in found.values()], list(expected))
    tangent = jvp(partial(loss, weights), (xs[0],), (xs[1],))[1]
    torch.testing.assert_close(tangent, (grad(partial(loss, weights))(xs[0]) * xs[1]).sum())


@pytest.mark.contrast
@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_where_torchs_layers_refuse(name):
    """Ours would be no news if they did not."""
    layer = getattr(nn, name)(3, 4)
    with pytest.raises((RuntimeError, NotImplementedError)):
        vmap(lambda x: layer(x)[0])(torch.randn(2, 5, 1, 3))


def test_where_torchs_lstm_refuses():
    layer, x = nn.LSTM(3, 4).requires_grad_(False), torch.randn(2, 1, 3)

    def loss(x):
        return layer(x)[0].pow(3).sum()

    for derivative in (lambda x: jvp(loss, (x,), (x,)), jacfwd(loss), hessian(loss)):
        with pytest.raises(NotImplementedError, match="forward AD"):
            derivative(x)


def test_weights_for_each_sample_and_directions_that_do_not_pair():
    gates, w_hh = torch.randn(N, 5, 2, 3, 4), torch.randn(N, 3, 4, 4)
    call = partial(rnnfast.functional.elman, direction="bidirectional")
    with pytest.raises(NotImplementedError, match="w_hh: got 3 groups in alternating directions"):
        vmap(call)(gates, w_hh)


@pytest.mark.parametrize("with_weights", [False, True])
def test_no_samples(kind, with_weights):
    layer = make(kind, 3, 4, dtype=torch.float64)
    names, weights = zip(*layer.named_parameters(), strict=True)
    if with_weights:
        weights = [w.new_zeros(0, *w.shape) for w in weights]

    def loss(x, *weights):
        return functional_call(layer, dict(zip(names, weights, strict=True)), (x,))[0].sum()

    x = randn(0, 5, 2, 3)
    dims = (0, *([0 if with_weights else None] * len(weights)))
    found = vmap(grad(loss, tuple(range(len(dims)))), dims)(x, *weights)
    assert [g.shape for g in found] == [x.shape, *((0, *p.shape) for p in layer.parameters())]


def test_samples_of_different_lengths_are_refused():
    layer = rnnfast.GRU(3, 4)

    def packed(data, batch_sizes):
        return torch.ops.rnnfast.recurrence(
            data, *weights, None, *biases, None, None, "gru", 0, False, batch_sizes
        )[0]

    weights, biases = (layer.weight_ih_l0, layer.weight_hh_l0), (layer.bias_ih_l0, layer.bias_hh_l0)
    with pytest.raises(NotImplementedError, match="batch_sizes: got 2 samples under vmap, expected the same"):
        vmap(packed)(torch.randn(2, 3, 3), torch.tensor([[2, 1], [2, 1]]))


@pytest.mark.parametrize("with_weights", [False, True])
def test_autocast_changes_no_dtype_below_the_operator(with_weights):
    """Layers cast what they are given; the recurrence itself computes in what it is given."""
    p = draw_kind("gru", 4, 3, 4, 2, dtype=torch.float32)
    gates, w_hh, bias = p.gates.expand(N, *p.gates.shape).clone(), p.w_hh.expand(N, *p.w_hh.shape), p.bias

    def loss(gates, w_hh):
        return rnnfast.functional.gru(gates, w_hh, bias)[0].square().sum()

    dims, args = ((0, 0), (gates, w_hh)) if with_weights else ((0, None), (gates, p.w_hh))
    gradients = vmap(grad(loss, (0, 1)), dims)

    def second(gates, w_hh):
        return grad(lambda w: grad(loss, 1)(gates, w).square().sum())(w_hh)

    for function, given in ((gradients, args), (second, (p.gates, p.w_hh))):
        expected = function(*given)
        with torch.autocast("cpu"):
            torch.testing.assert_close(function(*given), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_compiled_cells_of_samples(name):
    cell = make(name, 3, 4).requires_grad_(False)
    xs, h = torch.randn(N, 2, 3), torch.randn(N, 2, 4)

    def step(x, h):
        return states(cell(x, (h, h) if name == "LSTMCell" else h))

    expected = [torch.stack(s) for s in zip(*(step(x, own) for x, own in zip(xs, h, strict=True)), strict=True)]
    torch.testing.assert_close(torch.compile(vmap(step), backend="eager")(xs, h), expected)
    program = torch.export.export(cell, (xs[0],)).module()
    torch.testing.assert_close(states(vmap(program)(xs)), states(vmap(cell)(xs)))
    weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
    kind = {"RNNCell": "elman_tanh", "LSTMCell": "lstm", "GRUCell": "gru"}[name]

    def operator(x, w_hh, h):
        c = h if kind == "lstm" else None
        return torch.ops.rnnfast.cell(x, weights[0], w_hh, *weights[2:], h, c, kind)

    with torch._C._AutoDispatchBelowAutograd():
        found = vmap(operator, (0, 0, 0))(xs, weights[1].expand(N, -1, -1), h)
    torch.testing.assert_close(found, expected)
