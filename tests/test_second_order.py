"""Gradients of gradients as people take them, against torch's layers: the kernels give the first, plain torch the
second.
"""

import copy

import pytest
import torch
from kinds import KINDS, make
from torch import nn
from torch.func import functional_call

from rnnfast import _autograd


@pytest.fixture
def both(kind):
    """Ours and torch's, with the same weights."""
    options = dict(num_layers=2, bidirectional=True, dtype=torch.float64)
    ours = make(kind, 3, 4, **options)
    theirs = make(kind, 3, 4, package=nn, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def penalty_gradients(critic, real, fake):
    """Of WGAN-GP's penalty, (|d critic / d x| - 1)^2 between real and fake (Gulrajani et al. 2017)."""
    mixed = real.lerp(fake, 0.3).requires_grad_()
    score = critic(mixed)[0][-1].sum()
    (gradient,) = torch.autograd.grad(score, mixed, create_graph=True)
    penalty = (gradient.norm(dim=(0, 2)) - 1).square().mean()
    return [penalty, *torch.autograd.grad(penalty, list(critic.parameters()), allow_unused=True)]


def test_gradient_penalty(both):
    real, fake = torch.randn(5, 2, 3, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)
    ours, theirs = [penalty_gradients(critic, real, fake) for critic in both]
    found = [g is not None and bool(g.count_nonzero()) for g in theirs]
    assert sum(found) > len(found) / 2  # biases that cannot show aside, these are not zeros
    torch.testing.assert_close(ours, theirs)


def maml_gradients(model, support, query):
    """Through two steps of gradient descent (Finn et al., arXiv:1703.03400), to the weights before them."""
    weights = dict(model.named_parameters())

    def loss(weights, batch):
        x, y = batch
        return nn.functional.mse_loss(functional_call(model, weights, (x,))[0], y)

    adapted = weights
    for _ in range(2):
        steps = torch.autograd.grad(loss(adapted, support), list(adapted.values()), create_graph=True)
        adapted = {name: w - 0.5 * step for (name, w), step in zip(adapted.items(), steps, strict=True)}
    return torch.autograd.grad(loss(adapted, query), list(weights.values()))


def test_a_meta_learning_step(both):
    width = both[0](torch.zeros(1, 1, 3, dtype=torch.float64))[0].size(-1)
    batches = [
        (torch.randn(5, 2, 3, dtype=torch.float64), torch.randn(5, 2, width, dtype=torch.float64))
        for _ in range(2)
    ]
    ours, theirs = [maml_gradients(model, *batches) for model in both]
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("create_graph", [True, False])
def test_the_first_derivative_comes_from_the_kernel(kind, create_graph, monkeypatch):
    """Also where a second one is to follow: plain torch, step by step, runs only if it does."""
    layer, called = make(kind, 3, 4), []
    op = _autograd.op_bptt
    monkeypatch.setattr(_autograd, "op_bptt", lambda *args, **options: called.append(1) or op(*args, **options))
    output = layer(torch.randn(5, 2, 3))[0]
    steps = []
    layer_of_reference = _autograd.reference.layer
    monkeypatch.setattr(
        _autograd.reference,
        "layer",
        lambda *args, **options: steps.append(1) or layer_of_reference(*args, **options),
    )
    (first,) = torch.autograd.grad(output.sin().sum(), layer.weight_hh_l0, create_graph=create_graph)
    assert called
    assert not steps
    if create_graph:
        first.square().sum().backward()
        assert steps


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "LSTM with projection"])
def test_a_step_of_lbfgs_and_a_hessian_vector_product(kind):
    ours = make(kind, 3, 4, dtype=torch.float64)
    theirs = make(kind, 3, 4, package=nn, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    x, v = torch.randn(4, 2, 3, dtype=torch.float64), torch.randn(4, 2, 3, dtype=torch.float64)
    products, weights = [], []
    for layer in (ours, theirs):
        _, product = torch.autograd.functional.hvp(lambda x, layer=layer: layer(x)[0].pow(3).sum(), x, v)
        products.append(product)
        layer = copy.deepcopy(layer)
        optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=3)

        def closure(layer=layer, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (layer(x)[0] - 0.5).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        weights.append(list(layer.parameters()))
    torch.testing.assert_close(*products)
    torch.testing.assert_close(*weights)
