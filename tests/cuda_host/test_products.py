"""Products around a recurrence and of its steps, by the cuBLAS that torch has (here: loops, which round to TF32
where that is set)."""

import pytest
import torch
from problems import TOLERANCE, assert_close

from rnnfast.reference import GATES

GRADIENTS = ["input", "w_ih", "w_hh", "w_hr", "b_ih", "b_hh", "h0", "c0"]


def run(operators, x, weights, h0, cell, precision, saved=None, batch_sizes=None):
    """Results and all gradients; saved: of another call."""
    w_ih, w_hh, bias = weights
    lead = dict(cell=cell, direction=2 * (w_hh.dim() == 3), batch_first=False, batch_sizes=batch_sizes)
    given = (w_ih, w_hh, None, bias, bias, h0, None)
    results = saved or operators.recurrence(x, *given, **lead, saves=True, precision=precision)
    count = 3 if cell == "lstm" else 2
    args = (torch.ones_like(results[0]), None, None, None, x, *given, results[0], results[count:])
    gradients = operators.recurrence_bptt(*args, **lead, needs=255, precision=precision)
    return results, dict(zip(GRADIENTS, gradients, strict=False))


def inputs(T, B, I, H, cell, groups):  # noqa: E741
    K = GATES[cell] * H
    w_ih, w_hh = torch.randn(groups * K, I) / I**0.5, torch.randn(groups, K, H) / H**0.5
    bias = torch.randn(groups, K)
    if groups == 1:
        w_hh, bias = w_hh[0], bias[0]
    return torch.randn(T, B, I), (w_ih, w_hh, bias), torch.randn(groups, B, H)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("schedule", ["stepwise", "cta"])
@pytest.mark.parametrize("cell", ["elman_tanh", "lstm", "gru"])
def test_all_round_as_asked(operators, cell, schedule, groups):
    x, weights, h0 = inputs(5, 3, 6, 9, cell, groups)
    try:
        operators.wish_cuda_plan(schedule, None, None, "fma")
        as_set, gradients_as_set = run(operators, x, weights, h0, cell, None)
        exact, gradients = run(operators, x, weights, h0, cell, "ieee")
        rounded, _ = run(operators, x, weights, h0, cell, "tf32")
        _, rounded_gradients = run(operators, x, weights, h0, cell, "tf32", saved=exact)
    finally:
        operators.wish_cuda_plan(None)
    for a, b, c in zip(as_set, exact, rounded, strict=True):
        assert_close(b, a.double())
        assert_close(c, a.double(), tolerance=1e-2)
        assert not torch.equal(b, c)
    for name in GRADIENTS:
        a, b, c = gradients_as_set[name], gradients[name], rounded_gradients[name]
        assert_close(b, a.double())
        assert_close(c, a.double(), tolerance=1e-2)
        is_product = schedule == "stepwise" or name not in ("b_ih", "b_hh", "c0")
        assert torch.equal(b, c) != (a.numel() > 0 and is_product), name


# Inputs whose rows lie in other ways than one behind the other.
STRANGE = {
    "by columns": lambda: torch.randn(6, 15).t().unflatten(0, (5, 3)),
    "transposed": lambda: torch.randn(3, 5, 6).transpose(0, 1),
    "apart": lambda: torch.randn(5, 3, 20)[..., 4:10],
    "the same for all rows": lambda: torch.randn(5, 1, 6).expand(5, 3, 6),
    "the same at all steps": lambda: torch.randn(1, 1, 6).expand(5, 1, 6),
    "overlapping": lambda: torch.randn(20).as_strided((5, 1, 6), (2, 2, 1)),
    "one step and row": lambda: torch.randn(1, 1, 6),
    "one feature": lambda: torch.randn(5, 3, 1),
    "one feature, apart": lambda: torch.randn(5, 3, 7)[..., 2:3],
}


@pytest.mark.parametrize("how", STRANGE)
@pytest.mark.parametrize("H", [1, 4])
def test_inputs_in_memory(operators, how, H):
    x = STRANGE[how]()
    T, B, I = x.shape  # noqa: E741
    _, weights, h0 = inputs(T, B, I, H, "lstm", 1)
    found, gradients = run(operators, x, weights, h0, "lstm", "ieee")
    expected, expected_gradients = run(operators, x.contiguous(), weights, h0, "lstm", None)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b.double())
    for name in GRADIENTS:
        assert gradients[name].shape == expected_gradients[name].shape
        assert_close(gradients[name], expected_gradients[name].double())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_without_it_torchs_operators_multiply(operators, monkeypatch, dtype, groups):
    """The same numbers, for all sizes of batches; 16-bit values to float32 they have on GPUs only."""
    with torch.library._scoped_library("aten", "IMPL") as library:
        for name in ("mm", "bmm"):
            library.impl(
                f"{name}.dtype_out", lambda a, b, dtype, *, out: out.copy_(a.to(dtype) @ b.to(dtype)), "CPU"
            )
        x, weights, h0 = inputs(5, 4, 6, 9, "gru", groups)
        x, h0, weights = x.to(dtype), h0.to(dtype), tuple(w.to(dtype) for w in weights)
        packed = dict(batch_sizes=torch.tensor([4, 3, 3, 1])) if groups == 1 else {}
        x = x.reshape(-1, 6)[:11] if packed else x
        found = []
        try:
            operators.wish_cuda_plan("stepwise")
            for there in ("1", "0"):
                monkeypatch.setenv("CUDA_HOST_BLAS", there)
                results, gradients = run(operators, x, weights, h0, "gru", "ieee", **packed)
                found.append([*results, *gradients.values()])
        finally:
            operators.wish_cuda_plan(None)
    for a, b in zip(*found, strict=True):
        assert_close(a, b.double(), tolerance=TOLERANCE[dtype])
