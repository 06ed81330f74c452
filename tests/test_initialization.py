"""Initial values, of rnnfast's layers and torch.nn's, in all layers and directions."""

import math

import pytest
import torch
from torch import nn

import rnnfast
from rnnfast.initialization import chrono_, forget_bias_, gaussian_, identity_, orthogonal_

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}


@pytest.fixture(params=[rnnfast, nn], ids=["rnnfast", "torch.nn"])
def package(request):
    return request.param


def make(package, kind, H=12, **options):
    return getattr(package, kind)(5, H, num_layers=2, bidirectional=True, **options).double()


def gates(layer, prefix):
    """The named parameters of all layers and directions, one of each gate."""
    n = GATES[type(layer).__name__]
    return [list(p.detach().chunk(n)) for name, p in layer.named_parameters() if name.startswith(prefix)]


def bias_sums(layer):
    """b_ih + b_hh of each layer and direction, by gate."""
    pairs = zip(gates(layer, "bias_ih"), gates(layer, "bias_hh"), strict=True)
    return [[a + b for a, b in zip(*pair, strict=True)] for pair in pairs]


def unchanged(layer, before, *, but):
    """Whether all parameters are what they were, except those whose name begins so."""
    after = layer.state_dict()
    return all(torch.equal(after[name], old) for name, old in before.items() if not name.startswith(but))


def before(layer):
    return {name: parameter.clone() for name, parameter in layer.state_dict().items()}


@pytest.mark.parametrize("gain", [1.0, 0.7])
@pytest.mark.parametrize("kind", GATES)
def test_orthogonal(package, kind, gain):
    layer = make(package, kind)
    old = before(layer)
    assert orthogonal_(layer, gain) is layer
    blocks = [gate for own in gates(layer, "weight_hh") for gate in own]
    assert len(blocks) == 4 * GATES[kind]
    for W in blocks:
        torch.testing.assert_close(W @ W.T, torch.eye(12, dtype=W.dtype) * gain**2, rtol=0, atol=1e-12)
    assert not torch.equal(blocks[0], blocks[-1])
    assert unchanged(layer, old, but="weight_hh")


def test_orthogonal_columns_of_a_projected_lstm(package):
    layer = make(package, "LSTM", proj_size=3)
    orthogonal_(layer)
    for own in gates(layer, "weight_hh"):
        for W in own:
            torch.testing.assert_close(W.T @ W, torch.eye(3, dtype=W.dtype), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("kind", ["RNN", "GRU"])
def test_gaussian(package, kind, scale):
    layer = getattr(package, kind)(2, 300)
    old = before(layer)
    assert gaussian_(layer, scale) is layer
    for W in gates(layer, "weight_hh")[0]:
        n = W.numel()
        sigma = scale / math.sqrt(300)
        assert abs(W.mean()) < 5 * sigma / math.sqrt(n)
        assert abs(W.std() / sigma - 1) < 5 / math.sqrt(2 * n)
    assert unchanged(layer, old, but="weight_hh")


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_gaussian_has_that_spectral_radius(scale):
    W = gaussian_(rnnfast.RNN(2, 150), scale).weight_hh_l0.detach()
    assert 0.85 * scale < torch.linalg.eigvals(W).abs().max() < 1.25 * scale


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_identity(package, nonlinearity):
    layer = make(package, "RNN", nonlinearity=nonlinearity)
    old = before(layer)
    assert identity_(layer, 0.5) is layer
    for (W,) in gates(layer, "weight_hh"):
        assert torch.equal(W, torch.eye(12, dtype=W.dtype) / 2)
    assert all(torch.count_nonzero(b) == 0 for (b,) in gates(layer, "bias"))
    assert unchanged(layer, old, but=("weight_hh", "bias"))


def test_an_irnn_holds_its_state(package):
    layer = identity_(package.RNN(5, 12, nonlinearity="relu"))
    h0 = torch.rand(1, 3, 12)
    output, _ = layer(torch.zeros(50, 3, 5), h0)
    assert torch.equal(output[-1], h0[0])


def test_identity_of_a_layer_without_biases(package):
    layer = identity_(package.RNN(5, 12, bias=False))
    assert torch.equal(layer.weight_hh_l0.detach(), torch.eye(12))


@pytest.mark.parametrize("value", [1.0, -0.5])
def test_forget_bias(package, value):
    layer = make(package, "LSTM")
    old = bias_sums(layer)
    weights = before(layer)
    assert forget_bias_(layer, value) is layer
    for (i, f, g, o), (old_i, _, old_g, old_o) in zip(bias_sums(layer), old, strict=True):
        assert f.tolist() == [value] * 12
        assert torch.equal(torch.stack([i, g, o]), torch.stack([old_i, old_g, old_o]))
    assert unchanged(layer, weights, but="bias")


def test_forget_bias_keeps_the_cell(package):
    """By what the layer does: without input, c decays by sigma(value) in a step."""
    layer = package.LSTM(5, 12).double()
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    forget_bias_(layer, 2.0)
    c0 = torch.randn(1, 3, 12, dtype=torch.float64)
    _, (_, c) = layer(torch.zeros(1, 3, 5, dtype=torch.float64), (torch.zeros_like(c0), c0))
    torch.testing.assert_close(c, c0 / (1 + math.exp(-2.0)))


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_chrono(package, kind):
    H, longest = 500, 100
    layer = make(package, kind, H)
    old = bias_sums(layer)
    weights = before(layer)
    assert chrono_(layer, longest) is layer
    for now, then in zip(bias_sums(layer), old, strict=True):
        kept = now[1]
        assert kept.min() >= 0
        assert kept.max() <= math.log(longest - 1)
        # exp(b) is uniform on [1, longest - 1]: its mean and spread within 5 standard errors.
        spans, spread = kept.exp(), (longest - 2) / math.sqrt(12)
        assert abs(spans.mean() - longest / 2) < 5 * spread / math.sqrt(H)
        assert 0.85 < spans.std() / spread < 1.15
        if kind == "LSTM":
            assert torch.equal(now[0], -kept)
        rest = [2, 3] if kind == "LSTM" else [0, 2]
        assert all(torch.equal(now[i], then[i]) for i in rest)
    assert not torch.equal(bias_sums(layer)[0][1], bias_sums(layer)[1][1])
    assert unchanged(layer, weights, but="bias")


def test_chrono_makes_a_gru_keep_its_state(package):
    """By what the layer does: where nothing else acts, h decays by 1 - 1 / span in a step, span 2 to longest."""
    layer = package.GRU(5, 200).double()
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    chrono_(layer, 50)
    h0 = torch.ones(1, 3, 200, dtype=torch.float64)
    _, h = layer(torch.zeros(1, 3, 5, dtype=torch.float64), h0)
    spans = 1 / (1 - h)
    assert spans.min() >= 2 - 1e-9
    assert spans.max() <= 50 + 1e-9
    assert spans.max() > 40


def test_the_same_seed_gives_both_packages_the_same_values():
    for function, kind in [(orthogonal_, "GRU"), (gaussian_, "RNN"), (lambda m: chrono_(m, 20), "LSTM")]:
        made = []
        for package in (rnnfast, nn):
            torch.manual_seed(5)
            made.append(function(make(package, kind)).state_dict())
        assert all(torch.equal(made[0][name], w) for name, w in made[1].items())


def test_values_can_still_be_trained(package):
    layer = chrono_(forget_bias_(orthogonal_(make(package, "LSTM"))), 9)
    layer(torch.randn(4, 3, 5, dtype=torch.float64))[0].sum().backward()
    assert all(parameter.is_leaf and parameter.grad is not None for parameter in layer.parameters())


MISTAKES = {
    "a linear layer": (lambda: orthogonal_(nn.Linear(3, 3)), "layer: got Linear, expected RNN or LSTM or GRU"),
    "a cell": (lambda: gaussian_(rnnfast.RNNCell(3, 3)), "layer: got RNNCell, expected RNN or LSTM or GRU"),
    "identity of gates": (lambda: identity_(rnnfast.GRU(3, 3)), "layer: got GRU, expected RNN"),
    "no forget gate": (lambda: forget_bias_(nn.GRU(3, 3)), "layer: got GRU, expected LSTM"),
    "no gates": (lambda: chrono_(rnnfast.RNN(3, 3), 9), "layer: got RNN, expected LSTM or GRU"),
    "no biases": (
        lambda: forget_bias_(nn.LSTM(3, 3, bias=False)),
        "layer: got bias=False, expected a layer with biases",
    ),
    "scale": (lambda: gaussian_(nn.RNN(3, 3), -1), "spectral_scale: got -1, expected at least 0"),
    "longest": (lambda: chrono_(nn.LSTM(3, 3), 1), "longest: got 1, expected at least 2"),
}


@pytest.mark.parametrize("which", MISTAKES)
def test_a_mistake_gets_one_clear_line(which):
    call, message = MISTAKES[which]
    with pytest.raises((TypeError, ValueError), match=f"^{message}$"):
        call()
