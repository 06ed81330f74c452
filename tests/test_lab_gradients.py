"""What the laboratory measures of gradients, against plain torch in float64."""

import math

import pytest
import torch
from kinds import KINDS, make, random_hx, states
from torch import nn

import rnnfast
from rnnfast import lab
from rnnfast.lab import flow
from rnnfast.models import ReadoutRNN

T, B, FEATURES, H = 6, 3, 4, 5
BOTH = pytest.mark.parametrize("package", [rnnfast, nn], ids=["rnnfast", "torch"])


def layer_and_input(kind, package=rnnfast, **options):
    layer = make(kind, FEATURES, H, package=package, dtype=torch.float64, **options)
    x = torch.randn(B, T, FEATURES, dtype=torch.float64)
    return layer, x if layer.batch_first else x.transpose(0, 1)


def twin(layer, kind, **options):
    """torch.nn's layer with the same weights."""
    other = make(kind, FEATURES, H, package=nn, dtype=torch.float64, **options)
    other.load_state_dict(layer.state_dict())
    return other


def by_backward_calls(layer, x, cotangents, source):
    """One backward pass for each step and cotangent."""
    time = 1 if layer.batch_first else 0
    norms = []
    for t in range(T):
        parts = []
        for v in cotangents:
            leaf = x.clone().requires_grad_()
            (layer(leaf)[0].select(time, t) * v).sum().backward()
            parts.append(leaf.grad.select(time, source).flatten())
        norms.append(float(torch.cat(parts).norm()))
    return norms


LAYERS = [
    dict(batch_first=True),
    dict(num_layers=2),
    dict(bidirectional=True),
    dict(num_layers=2, bidirectional=True, batch_first=True),
]


@BOTH
@pytest.mark.parametrize("options", LAYERS, ids=str)
def test_gradient_flow_is_what_separate_backward_calls_find(kind, package, options):
    layer, x = layer_and_input(kind, package, **options)
    outputs = layer(x)[0].size(-1)
    oracle = twin(layer, kind, **options)
    found = lab.gradient_flow(layer, x)
    unit = torch.eye(outputs, dtype=torch.float64)[:1]
    torch.testing.assert_close(found.norms, by_backward_calls(oracle, x, unit, 0), rtol=1e-9, atol=1e-14)
    some = torch.randn(3, outputs, dtype=torch.float64)
    found = lab.gradient_flow(layer, x, some, source=2)
    torch.testing.assert_close(found.norms, by_backward_calls(oracle, x, some, 2), rtol=1e-9, atol=1e-14)


@BOTH
@pytest.mark.parametrize("options", LAYERS, ids=str)
def test_jacobian_flow_is_the_norm_of_the_whole_jacobian(kind, package, options):
    layer, x = layer_and_input(kind, package, **options)
    outputs = layer(x)[0].size(-1)
    every = torch.eye(outputs, dtype=torch.float64)
    expected = by_backward_calls(twin(layer, kind, **options), x, every, 1)
    for found in (lab.jacobian_flow(layer, x, source=1), lab.gradient_flow(layer, x, every, source=1)):
        torch.testing.assert_close(found.norms, expected, rtol=1e-9, atol=1e-14)
        assert found.source == 1


def test_random_cotangents_estimate_the_jacobian():
    layer, x = layer_and_input("RNN", batch_first=True)
    estimate = lab.gradient_flow(layer, x, torch.randn(500, H, dtype=torch.float64) / 500**0.5)
    exact = lab.jacobian_flow(layer, x)
    torch.testing.assert_close(estimate.norms, exact.norms, rtol=0.3, atol=0)


def test_copies_of_the_batch_come_in_pieces(monkeypatch):
    layer, x = layer_and_input("GRU", batch_first=True)
    some = torch.randn(2, H, dtype=torch.float64)
    whole = lab.gradient_flow(layer, x, some)
    for chunk in (1, 5 * B * T * H):
        monkeypatch.setattr(flow, "_CHUNK", chunk)
        torch.testing.assert_close(lab.gradient_flow(layer, x, some).norms, whole.norms, rtol=1e-12, atol=0)


def test_dropout_is_off_and_comes_back():
    layer, x = layer_and_input("LSTM", num_layers=2, dropout=0.9, batch_first=True)
    model = nn.Sequential(nn.Dropout(0.9), layer)
    first, again = [lab.gradient_flow(model, x).norms for _ in range(2)]
    assert first == again
    torch.testing.assert_close(first, lab.gradient_flow(layer.eval(), x).norms)
    assert layer.dropout == 0.9
    assert model[0].training


def test_a_whole_model_and_no_trace_of_the_measurement():
    model = ReadoutRNN(FEATURES, H, 2).double()
    x = torch.randn(B, T, FEATURES, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        norms = lab.gradient_flow(model, x, torch.tensor([0.0, 1.0])).norms
    assert len(norms) == T
    assert min(norms) > 0
    assert x.grad is None
    assert all(p.grad is None for p in model.parameters())


def test_numbers_that_sum_a_flow_up():
    found = lab.GradientFlow([0.0, 8.0, 4.0, 2.0, 1.0], source=1)
    assert found.ratio == 1 / 8
    assert found.per_step == pytest.approx(0.5)
    assert math.isnan(lab.GradientFlow([0.0, 1.0]).ratio)
    assert lab.GradientFlow([1.0, 0.0]).per_step == 0


def test_mistakes_in_a_flow_get_one_clear_line():
    layer, x = layer_and_input("RNN", batch_first=True)
    with pytest.raises(ValueError, match=r"^source: got 6, expected a step of the 6 that there are$"):
        lab.gradient_flow(layer, x, source=6)
    with pytest.raises(ValueError, match=r"^source: got -7, expected a step of the 6 that there are$"):
        lab.jacobian_flow(layer, x, source=-7)
    with pytest.raises(ValueError, match=r"^cotangents: got shape \(2, 4\), expected \(K, 5\)$"):
        lab.gradient_flow(layer, x, torch.zeros(2, 4))


CONTRIBUTING = [*LAYERS, dict(bias=False)]


@BOTH
@pytest.mark.parametrize("given", [False, True], ids=["zero hx", "hx"])
@pytest.mark.parametrize("options", CONTRIBUTING, ids=str)
def test_contributions_sum_to_the_gradient(kind, package, options, given):
    layer, x = layer_and_input(kind, package, **options)
    directions = layer.num_layers * (2 if layer.bidirectional else 1)
    hx = random_hx(layer, directions, B) if given else None
    weight = torch.randn_like(layer(x)[0])

    def loss(output, last):
        return (output * weight).sum() + sum(s.sin().sum() for s in states(last))

    found = lab.weight_contributions(layer, x, loss, hx)
    terms = lab.step_terms(layer, x, loss, hx)
    assert layer.weight_hh_l0.grad is None
    oracle = twin(layer, kind, **options)
    loss(*oracle(x, hx)).backward()
    expected = {name: p.grad for name, p in oracle.named_parameters() if name.startswith("weight_hh")}
    assert set(found.norms) == set(terms) == set(expected)
    for name, gradient in expected.items():
        matrices = terms[name].matrices()
        assert matrices.shape == (T, *gradient.shape)
        torch.testing.assert_close(matrices.sum(0), gradient, rtol=1e-9, atol=1e-12)
        norms = [float(matrix.norm()) for matrix in matrices]
        torch.testing.assert_close(found.norms[name], norms, rtol=1e-9, atol=1e-14)
        assert found.total[name] == pytest.approx(float(gradient.norm()))


def test_a_contribution_is_the_gradient_with_the_other_steps_held():
    """Against the definition: W_hh is another matrix at each step, and the gradient is asked for one of them."""
    layer, x = layer_and_input("RNN", batch_first=True)
    matrices = [layer.weight_hh_l0.detach().clone().requires_grad_() for _ in range(T)]
    h = torch.zeros(B, H, dtype=torch.float64)
    for t, matrix in enumerate(matrices):
        projected = x[:, t] @ layer.weight_ih_l0.T + layer.bias_ih_l0 + layer.bias_hh_l0
        h = torch.tanh(projected + h @ matrix.T)
    each = torch.autograd.grad(h.square().sum(), matrices)
    found = lab.step_terms(layer, x, lambda output, h_n: output[:, -1].square().sum())
    torch.testing.assert_close(found["weight_hh_l0"].matrices(), torch.stack(each), rtol=1e-9, atol=1e-14)


def test_shares_of_the_last_steps():
    found = lab.Contributions({"weight_hh_l0": [1.0, 2.0, 5.0]}, {"weight_hh_l0": 7.0})
    assert found.share_of_last(1) == 5 / 8
    assert lab.Contributions({"weight_hh_l0": [0.0]}, {"weight_hh_l0": 0.0}).share_of_last(1) == 0


def test_only_recurrent_layers_have_contributions():
    with pytest.raises(TypeError, match=r"^layer: got Linear, expected RNN, LSTM or GRU$"):
        lab.weight_contributions(nn.Linear(2, 2), torch.zeros(1, 2, 2), lambda *_: 0)


def test_jacobian_products_are_autograds():
    layer = rnnfast.RNN(FEATURES, H, batch_first=True, dtype=torch.float64)
    x = torch.randn(T, FEATURES, dtype=torch.float64)
    cell = nn.RNNCell(FEATURES, H, dtype=torch.float64)
    cell.load_state_dict({name.removesuffix("_l0"): p for name, p in layer.state_dict().items()})
    with torch.no_grad():
        h_t, _ = layer(x.unsqueeze(0))
    found = lab.jacobian_products(layer.weight_hh_l0, h_t[0])
    assert len(found.frobenius) == len(found.largest) == T + 1
    for k in range(T + 1):

        def run_on(h, k=k):
            for t in range(T - k, T):
                h = cell(x[t].unsqueeze(0), h.unsqueeze(0))[0]
            return h

        start = h_t[0, T - k - 1] if k < T else torch.zeros(H, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(run_on, start)
        assert found.frobenius[k] == pytest.approx(math.log10(torch.linalg.matrix_norm(jacobian)), abs=1e-9)
        assert found.largest[k] == pytest.approx(math.log10(torch.linalg.matrix_norm(jacobian, 2)), abs=1e-9)


def test_products_neither_overflow_nor_underflow():
    rotation = nn.init.orthogonal_(torch.empty(8, 8, dtype=torch.float64))
    for factor in (0.1, 10.0):
        found = lab.jacobian_products(factor * rotation, steps=1000)
        assert found.largest[-1] == pytest.approx(1000 * math.log10(factor))
        assert found.frobenius[-1] == pytest.approx(1000 * math.log10(factor) + math.log10(8**0.5))
        assert found.per_step == pytest.approx(factor)
    nothing = lab.jacobian_products(torch.zeros(3, 3), steps=2)
    assert nothing.largest == [0, -math.inf, -math.inf]
    assert nothing.per_step == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(w_hh=torch.zeros(2, 3), steps=1), r"w_hh: got shape \(2, 3\), expected \(H, H\)"),
        (dict(w_hh=torch.zeros(2, 2)), "steps: got None, expected 0 or more"),
        (dict(w_hh=torch.zeros(2, 2), steps=-1), "steps: got -1, expected 0 or more"),
        (dict(w_hh=torch.zeros(2, 2), states=torch.zeros(4, 2), steps=5), "steps: got 5, .*, at most 4"),
        (dict(w_hh=torch.zeros(2, 2), states=torch.zeros(4, 3)), r"states: got shape \(4, 3\), expected \(T, 2\)"),
    ],
)
def test_mistakes_in_products_get_one_clear_line(arguments, message):
    with pytest.raises(ValueError, match=message):
        lab.jacobian_products(**arguments)


def test_clipping_measures_before_and_after():
    layer = rnnfast.RNN(FEATURES, H)
    (layer(torch.randn(T, B, FEATURES))[0] * 100).sum().backward()
    before = math.sqrt(sum(float(p.grad.square().sum()) for p in layer.parameters()))
    found = lab.clip_gradients(layer.parameters(), 0.5)
    assert found == (pytest.approx(before), pytest.approx(0.5, rel=1e-4))
    after = math.sqrt(sum(float(p.grad.square().sum()) for p in layer.parameters()))
    assert found.after == pytest.approx(after)
    untouched = lab.clip_gradients([*layer.parameters(), torch.zeros(1)], 10.0)
    assert untouched == (pytest.approx(after), pytest.approx(after))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_layers", [1, 2])
def test_both_directions_are_two_layers_one_of_them_on_the_flipped_sequence(kind, num_layers):
    """Layer by layer: what a stack passes on is both directions' states."""
    both = make(kind, FEATURES, H, num_layers, bidirectional=True, dtype=torch.float64)
    x = torch.randn(T, B, FEATURES, dtype=torch.float64)
    output, last = both(x)
    seen, ends = x, []
    for i in range(num_layers):
        passed = []
        for suffix in ("", "_reverse"):
            single = make(kind, seen.size(-1), H, dtype=torch.float64)
            single.load_state_dict(
                {name: both.get_parameter(name.replace("_l0", f"_l{i}{suffix}")) for name in single.state_dict()}
            )
            y, end = single(seen.flip(0) if suffix else seen)
            passed.append(y.flip(0) if suffix else y)
            ends.append(end)
        seen = torch.cat(passed, -1)
    torch.testing.assert_close(output, seen, rtol=1e-9, atol=1e-12)
    for whole, *parts in zip(states(last), *map(states, ends), strict=True):
        torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-9, atol=1e-12)
