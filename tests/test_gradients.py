"""First and second derivatives of the layer, numerically, and who gets a gradient."""

import itertools

import pytest
import torch
from problems import random_batch_sizes
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils.rnn import PackedSequence

import rnnfast


def layer_function(layer, batch_sizes=None):
    """The layer as a function of (x, hx, *weights) of which gradcheck perturbs each."""
    names = [name for name, _ in layer.named_parameters()]

    def function(x, hx, *weights):
        input = x if batch_sizes is None else PackedSequence(x, batch_sizes)
        output, h_n = torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (input, hx))
        return (output if batch_sizes is None else output.data), h_n

    return function


def arguments(layer, x_shape, hx_shape):
    tensors = [torch.randn(x_shape, dtype=torch.float64), torch.randn(hx_shape, dtype=torch.float64)]
    tensors += [p.detach().clone() for p in layer.parameters()]
    return tuple(t.requires_grad_() for t in tensors)


CASES = [
    dict(nonlinearity=f, num_layers=L, bidirectional=D == 2, bias=bias, batch_first=batch_first)
    for f, L, D, bias, batch_first in itertools.product(
        ["tanh", "relu"], [1, 2], [1, 2], [True, False], [True, False]
    )
]


def case_id(options):
    return " ".join(f"{name}={value}" for name, value in options.items())


@pytest.mark.parametrize("kind", ["padded", "unbatched", "packed"])
@pytest.mark.parametrize("options", CASES, ids=case_id)
def test_gradcheck_and_gradgradcheck(options, kind):
    T, B, inputs, H = 3, 2, 3, 4
    if options["nonlinearity"] == "relu":
        torch.manual_seed(1)  # a fresh draw would now and then fall on the kink, where there is no derivative
    layer = rnnfast.RNN(inputs, H, dtype=torch.float64, **options)
    states = options["num_layers"] * (2 if options["bidirectional"] else 1)
    batch_sizes = None
    if kind == "packed":
        batch_sizes = random_batch_sizes(T, B)
        args = arguments(layer, (int(batch_sizes.sum()), inputs), (states, B, H))
    elif kind == "unbatched":
        args = arguments(layer, (T, inputs), (states, H))
    else:
        args = arguments(layer, (B, T, inputs) if options["batch_first"] else (T, B, inputs), (states, B, H))
    function = layer_function(layer, batch_sizes)
    assert gradcheck(function, args, fast_mode=True)
    assert gradgradcheck(function, args, fast_mode=True)


def test_slow_mode_and_no_initial_state():
    layer = rnnfast.RNN(2, 3, bidirectional=True, dtype=torch.float64)
    x, _, *weights = arguments(layer, (3, 2, 2), (1,))
    function = layer_function(layer)
    assert gradcheck(lambda x, *w: function(x, None, *w), (x, *weights))
    assert gradgradcheck(lambda x, *w: function(x, None, *w), (x, *weights))


def test_third_derivative():
    layer = rnnfast.RNN(2, 3, dtype=torch.float64)
    x, hx, *weights = arguments(layer, (2, 2, 2), (1, 2, 3))

    def gradient(x, hx, *weights):
        output, _ = layer_function(layer)(x, hx, *weights)
        return torch.autograd.grad((output**3).sum(), (x, weights[1]), create_graph=True)

    assert gradgradcheck(gradient, (x, hx, *weights), fast_mode=True)


@pytest.mark.parametrize("what", ["output", "h_n"])
def test_loss_on_one_result_only(what):
    """The other's gradient is absent, not zero: a path of its own through BPTT."""
    layer = rnnfast.RNN(3, 4, bidirectional=True, dtype=torch.float64)
    args = arguments(layer, (4, 2, 3), (2, 2, 4))
    index = ["output", "h_n"].index(what)
    assert gradcheck(lambda *a: layer_function(layer)(*a)[index], args, fast_mode=True)
    assert gradgradcheck(lambda *a: layer_function(layer)(*a)[index], args, fast_mode=True)


def both(**options):
    """torch's layer and ours with the same weights, and an input."""
    ours = rnnfast.RNN(5, 6, dtype=torch.float64, **options)
    theirs = torch.nn.RNN(5, 6, dtype=torch.float64, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, torch.randn(4, 3, 5, dtype=torch.float64)


def gradients(layer, x, hx=None):
    output, h_n = layer(x, hx)
    (output.sin().sum() + h_n.cos().sum()).backward()
    return {name: p.grad for name, p in layer.named_parameters()}


@pytest.mark.parametrize("wanted", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "x", "hx"])
def test_only_what_is_asked_for_is_computed(wanted, monkeypatch):
    ours, theirs, x = both()
    grads = []
    for layer in (ours, theirs):
        for name, p in layer.named_parameters():
            p.requires_grad_(name == wanted)
        inputs = {"x": x.clone(), "hx": torch.ones(1, 3, 6, dtype=torch.float64)}
        if wanted in inputs:
            inputs[wanted].requires_grad_()
        got = gradients(layer, inputs["x"], inputs["hx"])
        got |= {name: t.grad for name, t in inputs.items()}
        assert {name for name, g in got.items() if g is not None} == {wanted}
        grads.append(got[wanted])
    torch.testing.assert_close(*grads)

    needs = []
    op = rnnfast.ops._op_layer_bptt
    monkeypatch.setattr(rnnfast.ops, "_op_layer_bptt", lambda *args: needs.append(args[-2]) or op(*args))
    gradients(ours, x.requires_grad_(wanted == "x"), inputs["hx"].requires_grad_(wanted == "hx"))
    order = ["x", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "hx"]
    assert needs == [1 << order.index(wanted)]


def test_no_graph_without_anything_requiring_grad():
    layer = rnnfast.RNN(5, 6).requires_grad_(False)
    output, h_n = layer(torch.randn(4, 3, 5))
    assert not output.requires_grad
    assert not h_n.requires_grad


def test_eval_mode_and_retain_graph():
    ours, theirs, x = both(num_layers=2, dropout=0.5)
    ours.eval()
    theirs.eval()
    for _ in range(2):
        expected = gradients(theirs, x)
        actual = gradients(ours, x)
    torch.testing.assert_close(actual, expected)
    output, _ = ours(x)
    first = torch.autograd.grad(output.sum(), ours.weight_hh_l0, retain_graph=True)[0]
    again = torch.autograd.grad(output.sum(), ours.weight_hh_l0)[0]
    assert torch.equal(first, again)


def test_tied_weights():
    ours, theirs, x = both(num_layers=2)
    for layer in (ours, theirs):
        layer.weight_hh_l1 = layer.weight_hh_l0
        layer.bias_hh_l1 = layer.bias_hh_l0
    assert len(list(ours.parameters())) == 6
    torch.testing.assert_close(gradients(ours, x), gradients(theirs, x))


def test_changing_an_output_in_place_is_noticed():
    layer = rnnfast.RNN(3, 4)
    output, _ = layer(torch.randn(2, 2, 3))
    output.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()
