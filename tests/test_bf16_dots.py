"""Products of bfloat16 by the processor's own instruction, where it has one: whole numbers, without rounding."""

import random

import pytest
import torch

import rnnfast

op = torch.ops.rnnfast
WIDTHS = [1, 2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 129, 255, 256, 257, 300, 515]


def whole(*shape, nonzero):
    """-1, 0 or 1; of the last axis about so many are not 0."""
    there = torch.rand(shape) < nonzero / shape[-1]
    return (torch.randint(0, 2, shape) * 2 - 1) * there


def leave_nans_in_memory():
    """Where weights are packed: what is read beyond their end shows."""
    x, w = torch.zeros(1, 2, 600, dtype=torch.bfloat16), torch.full((600, 600), torch.nan, dtype=torch.bfloat16)
    op.recurrence(x, w, w, None, None, None, torch.zeros_like(x), None, "elman_relu")


def relu_rnn(x, w_ih, w_hh, h0, dy):
    """All states, and the gradients of (y * dy).sum() for the gates."""
    states, gates = [h0], []
    for x_t in x:
        gates.append((x_t @ w_ih.T + states[-1] @ w_hh.T).requires_grad_())
        states.append(torch.relu(gates[-1]))
    y = torch.stack(states[1:])
    return y, torch.autograd.grad((y * dy).sum(), gates)


@pytest.mark.parametrize("B", [1, 2, 6, 7, 17])
@pytest.mark.parametrize("H", WIDTHS)
def test_whole_numbers_come_out_exact(H, B):
    T, width = 3, random.choice(WIDTHS)
    x, h0, dy = whole(T, B, width, nonzero=8), whole(B, H, nonzero=4), whole(T, B, H, nonzero=H)
    w_ih, w_hh = whole(H, width, nonzero=8), whole(H, H, nonzero=3)
    y, dgates = relu_rnn(*(t.double() for t in (x, w_ih, w_hh, h0, dy)))
    assert max(t.abs().max() for t in (y, *dgates)) <= 256, "beyond that bfloat16 would round"
    x, w_ih, w_hh, h0, dy = (t.bfloat16() for t in (x, w_ih, w_hh, h0[None], dy))
    given = (None, w_hh, None, None, None, h0, None)
    with rnnfast.forced_plan(weights="packed"):
        leave_nans_in_memory()
        found = op.recurrence(x, w_ih, *given[1:], "elman_relu", saves=True)
        assert told_of_dots(op.last_plan())
        leave_nans_in_memory()
        backward = op.recurrence_bptt(
            dy[:, :, None],
            None,
            None,
            None,
            None,
            *given,
            found[0][:, :, None],
            found[2:],
            "elman_relu",
            0,
            False,
            None,
            256,
        )
        assert told_of_dots(op.last_plan())
    assert torch.equal(found[0].double(), y)
    assert torch.equal(backward[8][:, :, 0].double(), torch.stack(dgates))


def told_of_dots(plan):
    built = rnnfast.build_info()
    expected = built["bf16_dots"] and built["isa_in_use"] == "avx512"
    return ("isa=avx512_bf16" in plan) == expected


def test_other_dtypes_and_weights_in_place_are_planned_without():
    plan = dict(cell="lstm", T=100, B=64, H=256, isa="avx512")
    assert rnnfast.plan(**plan).isa == "avx512"
    assert rnnfast.plan(**plan, dtype=torch.float16).isa == "avx512"
    dots = rnnfast.plan(**plan, dtype=torch.bfloat16)
    assert dots.isa == ("avx512_bf16" if rnnfast.build_info()["bf16_dots"] else "avx512")
    in_place = rnnfast.plan("elman_tanh", 1, 1, 512, dtype=torch.bfloat16, initial=True, isa="avx512")
    assert (in_place.weights, in_place.isa) == ("in_place", "avx512")
