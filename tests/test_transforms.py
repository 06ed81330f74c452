"""torch.func transforms, forward mode and torch.compile: right, whatever the speed."""

from functools import partial

import pytest
import torch
from kinds import make, random_hx, states
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap
from torch.nn.utils.rnn import pack_sequence

from rnnfast import reference


@pytest.fixture(params=[True, False], ids=["weights require grad", "no grad"])
def layer(request, kind):
    return make(kind, 3, 4, bidirectional=True, dtype=torch.float64).requires_grad_(request.param)


def results(layer, input):
    """Everything that the layer returns, in one vector."""
    output, last = layer(input)
    return torch.cat([t.flatten() for t in (output, *states(last))])


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_grad_and_per_sample_grad(layer):
    weights = {name: p.detach() for name, p in layer.named_parameters()}
    xs = randn(6, 5, 1, 3)

    def loss(weights, x):
        return results(partial(functional_call, layer, weights), x).sin().sum()

    per_sample = vmap(grad(loss), in_dims=(None, 0))(weights, xs)
    layer.requires_grad_(True)
    for i, x in enumerate(xs):
        expected = torch.autograd.grad(results(layer, x).sin().sum(), list(layer.parameters()))
        torch.testing.assert_close([g[i] for g in per_sample.values()], list(expected))


def test_vmap(layer):
    xs = randn(6, 5, 2, 3)
    torch.testing.assert_close(vmap(partial(results, layer))(xs), torch.stack([results(layer, x) for x in xs]))


def test_forward_mode(layer):
    x, v = randn(4, 2, 3), randn(4, 2, 3)
    epsilon = 1e-6
    expected = (results(layer, x + epsilon * v) - results(layer, x - epsilon * v)) / (2 * epsilon)
    _, tangent = jvp(partial(results, layer), (x,), (v,))
    torch.testing.assert_close(tangent, expected, rtol=1e-6, atol=1e-8)
    with forward_ad.dual_level():
        dual = results(layer, forward_ad.make_dual(x, v))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, tangent)


def test_jacobians_both_ways(layer):
    x = randn(3, 1, 3)
    function = partial(results, layer)
    torch.testing.assert_close(jacfwd(function)(x), jacrev(function)(x))


def test_batched_gradients(layer):
    """The backward under vmap, where the forward was not."""
    x = randn(3, 2, 3).requires_grad_()
    output = results(layer, x)
    vs = randn(5, *output.shape)
    (batched,) = torch.autograd.grad(output, x, vs, is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad(output, x, v, retain_graph=True)[0] for v in vs]
    torch.testing.assert_close(batched, torch.stack(one_by_one))

    def loss(x):
        return results(layer, x).pow(3).sum()

    point = randn(2, 1, 3)
    hessians = [torch.autograd.functional.hessian(loss, point, vectorize=v) for v in (True, False)]
    torch.testing.assert_close(*hessians)


@pytest.mark.parametrize("input_kind", ["padded", "packed", "unsorted"])
def test_compiled_first_and_second_derivatives(kind, input_kind):
    layer = make(kind, 3, 4, dtype=torch.float64)
    if input_kind == "padded":
        input, hx = randn(5, 2, 3).requires_grad_(), random_hx(layer, 1, 2)
    else:
        is_sorted = input_kind == "packed"
        sequences = [randn(n, 3) for n in (4, 2)]
        input = pack_sequence(sequences if is_sorted else sequences[::-1], enforce_sorted=is_sorted)
        hx = None if is_sorted else random_hx(layer, 1, 2)

    def derivatives(layer):
        output, last = layer(input, hx)
        output = output if input_kind == "padded" else output.data
        weights = list(layer.parameters())
        loss = sum(t.pow(3).sum() for t in (output, *states(last)))
        first = torch.autograd.grad(loss, weights, create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), weights)
        return [*first, *second]

    expected = derivatives(layer)
    torch.testing.assert_close(derivatives(torch.compile(layer, backend="eager")), expected)


def test_compiled_training_step(layer):
    layer.requires_grad_(True)
    x = randn(5, 2, 3)

    def step(x):
        layer.zero_grad()
        results(layer, x).sin().sum().backward()
        return [p.grad.clone() for p in layer.parameters()]

    expected = step(x)
    compiled = torch.compile(layer, backend="eager")
    layer.zero_grad()
    results(compiled, x).sin().sum().backward()
    torch.testing.assert_close([p.grad for p in layer.parameters()], expected)


def test_forward_mode_elsewhere_changes_nothing_here(layer, monkeypatch):
    """Which level of forward mode is at work is known to all threads."""
    monkeypatch.setattr(reference, "layer", None)
    with forward_ad.dual_level():
        output, _ = layer(randn(4, 2, 3).requires_grad_())
        output.sum().backward()
