"""First and second derivatives of the layer, numerically, and who gets a gradient."""

import itertools

import pytest
import torch
from kinds import KINDS, make, state_sizes, states
from problems import random_batch_sizes
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils.rnn import PackedSequence

from rnnfast import _autograd, functional
from rnnfast.reference import GATES


def layer_function(layer, batch_sizes=None, with_hx=True):
    """The layer as a function of (x, *states, *weights) of which gradcheck perturbs each."""
    names = [name for name, _ in layer.named_parameters()]
    count = len(state_sizes(layer)) if with_hx else 0

    def function(x, *tensors):
        hx, weights = tensors[:count], dict(zip(names, tensors[count:], strict=True))
        hx = hx if count == 2 else hx[0] if hx else None
        input = x if batch_sizes is None else PackedSequence(x, batch_sizes)
        output, last = torch.func.functional_call(layer, weights, (input, hx))
        return (output if batch_sizes is None else output.data), *states(last)

    return function


def arguments(layer, x_shape, state_shape):
    """For :func:`layer_function`; `state_shape` is without features, None for no states."""
    shapes = [x_shape] + [(*state_shape, size) for size in state_sizes(layer) if state_shape is not None]
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    tensors += [p.detach().clone() for p in layer.parameters()]
    return tuple(t.requires_grad_() for t in tensors)


CASES = [
    ("RNN", dict(nonlinearity=f, num_layers=L, bidirectional=D == 2, bias=bias, batch_first=batch_first))
    for f, L, D, bias, batch_first in itertools.product(
        ["tanh", "relu"], [1, 2], [1, 2], [True, False], [True, False]
    )
]
CASES += [
    (kind, dict(num_layers=L, bidirectional=D == 2, bias=plain, batch_first=not plain))
    for kind in KINDS
    if kind != "RNN"
    for L, D, plain in itertools.product([1, 2], [1, 2], [True, False])
    if plain or L == D
]


def case_id(value):
    return " ".join(f"{name}={value}" for name, value in value.items()) if isinstance(value, dict) else value


@pytest.mark.parametrize("input_kind", ["padded", "unbatched", "packed"])
@pytest.mark.parametrize(("kind", "options"), CASES, ids=case_id)
def test_gradcheck_and_gradgradcheck(kind, options, input_kind):
    T, B, inputs, H = 3, 2, 3, 4
    if options.get("nonlinearity") == "relu":
        torch.manual_seed(1)  # a fresh draw would now and then fall on the kink, where there is no derivative
    layer = make(kind, inputs, H, dtype=torch.float64, **options)
    lead = options["num_layers"] * (2 if options["bidirectional"] else 1)
    batch_sizes = None
    if input_kind == "packed":
        batch_sizes = random_batch_sizes(T, B)
        args = arguments(layer, (int(batch_sizes.sum()), inputs), (lead, B))
    elif input_kind == "unbatched":
        args = arguments(layer, (T, inputs), (lead,))
    else:
        args = arguments(layer, (B, T, inputs) if options["batch_first"] else (T, B, inputs), (lead, B))
    function = layer_function(layer, batch_sizes)
    assert gradcheck(function, args, fast_mode=True)
    assert gradgradcheck(function, args, fast_mode=True)


def test_slow_mode_and_no_initial_state(kind):
    layer = make(kind, 2, 4, bidirectional=True, dtype=torch.float64)
    args, function = arguments(layer, (3, 2, 2), None), layer_function(layer, with_hx=False)
    assert gradcheck(function, args)
    assert gradgradcheck(function, args)


def test_third_derivative(kind):
    layer = make(kind, 2, 4, dtype=torch.float64)
    args = arguments(layer, (2, 2, 2), (1, 2))
    w_hh = 2 + len(state_sizes(layer))

    def gradient(*args):
        results = layer_function(layer)(*args)
        loss = sum((r**3).sum() for r in results)
        return torch.autograd.grad(loss, (args[0], args[w_hh]), create_graph=True)

    assert gradgradcheck(gradient, args, fast_mode=True)


@pytest.mark.parametrize(
    ("kind", "what"),
    [(kind, what) for kind in KINDS for what in ("output", "h_n", "c_n") if what != "c_n" or "LSTM" in kind],
)
def test_loss_on_one_result_only(kind, what):
    """The others' gradients are absent, not zero: a path of its own through BPTT."""
    layer = make(kind, 3, 4, bidirectional=True, dtype=torch.float64)
    args = arguments(layer, (4, 2, 3), (2, 2))
    index = ["output", "h_n", "c_n"].index(what)
    assert gradcheck(lambda *a: layer_function(layer)(*a)[index], args, fast_mode=True)
    assert gradgradcheck(lambda *a: layer_function(layer)(*a)[index], args, fast_mode=True)


def both(kind, **options):
    """torch's layer and ours with the same weights, and an input."""
    ours = make(kind, 5, 6, dtype=torch.float64, **options)
    theirs = make(kind, 5, 6, package=torch.nn, dtype=torch.float64, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, torch.randn(4, 3, 5, dtype=torch.float64)


def gradients(layer, x, hx=None):
    output, last = layer(x, hx)
    (output.sin().sum() + sum(s.cos().sum() for s in states(last))).backward()
    return {name: p.grad for name, p in layer.named_parameters()}


# What may be wanted, by the names that the operator has for it.
OPERATORS_NAMES = {
    "x": "input",
    "weight_ih_l0": "w_ih",
    "weight_hh_l0": "w_hh",
    "weight_hr_l0": "w_hr",
    "bias_ih_l0": "b_ih",
    "bias_hh_l0": "b_hh",
    "h_0": "h0",
    "c_0": "c0",
}


def is_in(kind, name):
    return ("projection" in kind or name != "weight_hr_l0") and ("LSTM" in kind or name != "c_0")


@pytest.mark.parametrize(
    ("kind", "wanted"), [(kind, name) for kind in KINDS for name in OPERATORS_NAMES if is_in(kind, name)]
)
def test_only_what_is_asked_for_is_computed(kind, wanted, monkeypatch):
    ours, theirs, x = both(kind)
    needs = []
    op = _autograd.op_bptt
    monkeypatch.setattr(
        _autograd, "op_bptt", lambda *args, **options: needs.append(args[-1]) or op(*args, **options)
    )
    grads = []
    for layer in (ours, theirs):
        for name, p in layer.named_parameters():
            p.requires_grad_(name == wanted)
        inputs = {"x": x.clone()}
        for name, size in zip(("h_0", "c_0"), state_sizes(layer), strict=False):
            inputs[name] = torch.ones(1, 3, size, dtype=torch.float64)
        if wanted in inputs:
            inputs[wanted].requires_grad_()
        _, *hx = inputs.values()
        got = gradients(layer, inputs["x"], tuple(hx) if len(hx) > 1 else hx[0])
        got |= {name: t.grad for name, t in inputs.items()}
        assert {name for name, g in got.items() if g is not None} == {wanted}
        grads.append(got[wanted])
    torch.testing.assert_close(*grads)
    assert needs == [1 << _autograd.TENSORS.index(OPERATORS_NAMES[wanted])]


def test_no_graph_without_anything_requiring_grad(kind):
    layer = make(kind, 5, 6).requires_grad_(False)
    output, last = layer(torch.randn(4, 3, 5))
    assert not any(t.requires_grad for t in (output, *states(last)))


def test_eval_mode_and_retain_graph(kind):
    ours, theirs, x = both(kind, num_layers=2, dropout=0.5)
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


def test_tied_weights(kind):
    ours, theirs, x = both(kind, num_layers=2)
    count = len(list(ours.parameters()))
    for layer in (ours, theirs):
        layer.weight_hh_l1 = layer.weight_hh_l0
        layer.bias_hh_l1 = layer.bias_hh_l0
    assert len(list(ours.parameters())) == count - 2
    torch.testing.assert_close(gradients(ours, x), gradients(theirs, x))


def test_changing_an_output_in_place_is_noticed(kind):
    layer = make(kind, 3, 4)
    output, _ = layer(torch.randn(2, 2, 3))
    output.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("with_groups", [True, False])
@pytest.mark.parametrize("name", ["elman", "lstm", "gru"])
def test_second_derivatives_of_a_bias_in_whatever_form(name, with_groups):
    """(1, K) beside w_hh of (1, K, H), (K) beside (K, H)."""
    K = 4 * GATES[{"elman": "elman_tanh"}.get(name, name)]
    shapes = [(3, 2, 1, K), (1, K, 4), (1, K)] if with_groups else [(3, 2, K), (K, 4), (K,)]
    args = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def function(*args):
        return getattr(functional, name)(*args)[0]

    assert gradgradcheck(function, args, fast_mode=True)
    loss = torch.func.hessian(lambda b: function(*args[:2], b).sin().sum())
    expected = torch.autograd.functional.hessian(lambda b: function(*args[:2], b).sin().sum(), args[2])
    torch.testing.assert_close(loss(args[2]), expected)


@pytest.mark.parametrize("flat", [True, False])
def test_second_derivatives_of_flat_biases(flat):
    """The operator takes those of two groups side by side as well."""
    shapes = [(3, 2, 2), (16, 2), (2, 8, 2), (16,) if flat else (2, 8)]
    x, w_ih, w_hh, bias = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def function(*args):
        return torch.ops.rnnfast.recurrence(*args[:3], None, *args[3:], None, None, "lstm", 2)[0]

    assert gradgradcheck(function, (x, w_ih, w_hh, bias, bias.detach().clone().requires_grad_()), fast_mode=True)
