"""torch.func transforms, forward mode and torch.compile: right, whatever the speed."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap

import rnnfast


@pytest.fixture(params=[True, False], ids=["weights require grad", "no grad"])
def layer(request):
    return rnnfast.RNN(3, 4, bidirectional=True, dtype=torch.float64).requires_grad_(request.param)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_grad_and_per_sample_grad(layer):
    weights = {name: p.detach() for name, p in layer.named_parameters()}
    xs = randn(6, 5, 1, 3)

    def loss(weights, x):
        return functional_call(layer, weights, (x,))[0].sin().sum()

    per_sample = vmap(grad(loss), in_dims=(None, 0))(weights, xs)
    layer.requires_grad_(True)
    for i, x in enumerate(xs):
        expected = torch.autograd.grad(layer(x)[0].sin().sum(), list(layer.parameters()))
        torch.testing.assert_close([g[i] for g in per_sample.values()], list(expected))


def test_vmap(layer):
    xs = randn(6, 5, 2, 3)
    torch.testing.assert_close(vmap(lambda x: layer(x)[0])(xs), torch.stack([layer(x)[0] for x in xs]))


def test_forward_mode(layer):
    x, v = randn(4, 2, 3), randn(4, 2, 3)
    epsilon = 1e-6
    expected = (layer(x + epsilon * v)[0] - layer(x - epsilon * v)[0]) / (2 * epsilon)
    _, tangent = jvp(lambda x: layer(x)[0], (x,), (v,))
    torch.testing.assert_close(tangent, expected, rtol=1e-6, atol=1e-8)
    with forward_ad.dual_level():
        output, _ = layer(forward_ad.make_dual(x, v))
        torch.testing.assert_close(forward_ad.unpack_dual(output).tangent, tangent)


def test_jacobians_both_ways(layer):
    x = randn(3, 1, 3)

    def output(x):
        return layer(x)[0]

    torch.testing.assert_close(jacfwd(output)(x), jacrev(output)(x))


def test_compiled_training_step(layer):
    layer.requires_grad_(True)
    x = randn(5, 2, 3)

    def step(x):
        layer.zero_grad()
        layer(x)[0].sin().sum().backward()
        return [p.grad.clone() for p in layer.parameters()]

    expected = step(x)
    compiled = torch.compile(layer, backend="eager")
    layer.zero_grad()
    compiled(x)[0].sin().sum().backward()
    torch.testing.assert_close([p.grad for p in layer.parameters()], expected)
