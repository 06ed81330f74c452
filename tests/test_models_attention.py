"""Attention against its formulas, written with loops."""

import pytest
import torch

from rnnfast.models import Attention


@pytest.fixture(params=["bahdanau", "luong", "scaled_luong"])
def attention(request):
    found = Attention(request.param, 5, 7).double()
    found.kind = request.param
    return found


def score(attention, s, m):
    if attention.kind == "bahdanau":
        W, U, v = attention.query.weight, attention.keys.weight, attention.score.weight[0]
        return v @ torch.tanh(W @ s + U @ m)
    product = s @ attention.keys.weight @ m
    return product / 5**0.5 if attention.kind == "scaled_luong" else product


def by_loops(attention, states, memory, lengths):
    found, all_weights = torch.zeros_like(states), torch.zeros(3, 4, 6, dtype=torch.float64)
    for b, n in enumerate(lengths):
        for t, s in enumerate(states[b]):
            weights = torch.stack([score(attention, s, m) for m in memory[b, :n]]).softmax(0)
            context = sum(w * m for w, m in zip(weights, memory[b, :n], strict=True))
            found[b, t] = torch.tanh(attention.combine.weight @ torch.cat([context, s]))
            all_weights[b, t, :n] = weights
    return found, all_weights


@pytest.mark.parametrize("lengths", [[6, 6, 6], [4, 6, 1]])
def test_formulas(attention, lengths):
    states, values = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(3, 6, 7, dtype=torch.float64)
    padding = torch.arange(6) >= torch.tensor(lengths).unsqueeze(1)
    got = attention(states, attention.memory(values, padding))
    torch.testing.assert_close(got, by_loops(attention, states, values, lengths), rtol=0, atol=1e-12)


def test_weights_gather_where_a_key_is_like_the_query():
    attention = Attention("luong", 5, 7).double()
    with torch.no_grad():
        attention.keys.weight.copy_(torch.eye(5, 7) * 50)
    values = torch.eye(7, dtype=torch.float64)[None, :5]
    states = torch.eye(5, dtype=torch.float64)[None]
    _, weights = attention(states, attention.memory(values))
    torch.testing.assert_close(weights[0], torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-12)


def test_gradients_reach_every_parameter(attention):
    values = torch.randn(3, 6, 7, dtype=torch.float64, requires_grad=True)
    padding = torch.arange(6) >= torch.tensor([4, 6, 1]).unsqueeze(1)
    states, _ = attention(torch.randn(3, 4, 5, dtype=torch.float64), attention.memory(values, padding))
    states.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in attention.parameters())
    assert torch.count_nonzero(values.grad[padding]) == 0
    assert values.grad.isfinite().all()
