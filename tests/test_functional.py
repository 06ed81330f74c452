"""rnnfast.functional: with and without the group axis, and what it says of wrong arguments."""

import pytest
import torch
from problems import assert_close, draw
from torch.autograd import gradcheck

from rnnfast import functional


@pytest.mark.parametrize("layout", ["time", "batch", "packed"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_with_groups(direction, layout):
    p = draw(5, 4, 6, 2, layout=layout, direction=functional.DIRECTIONS[direction])
    options = dict(direction=direction, batch_first=p.options[2], batch_sizes=p.options[3])
    args = (p.gates, p.w_hh, p.bias, p.h0)
    expected = p.reference()
    for actual, exact in zip(functional.elman(*args, **options), expected, strict=True):
        assert_close(actual, exact)
    args = tuple(t.requires_grad_() for t in args)
    assert gradcheck(lambda *a: functional.elman(*a, **options), args, fast_mode=True)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_without_groups(direction):
    p = draw(5, 4, 6)
    y, h_n = functional.elman(p.gates, p.w_hh, p.bias, p.h0, direction=direction)
    alone = [t.squeeze(t.dim() - 2 if t is p.gates else 0) for t in (p.gates, p.w_hh, p.bias, p.h0)]
    y_alone, h_n_alone = functional.elman(*alone, direction=direction)
    assert torch.equal(y_alone, y.squeeze(-2))
    assert torch.equal(h_n_alone, h_n.squeeze(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_reference_rounds_as_the_kernels_do(dtype):
    """16 bits: one rounding each step, so that the two seldom differ, and then by one place."""
    p = draw(8, 4, 50, dtype=dtype)
    y, _ = functional.elman(p.gates, p.w_hh, p.bias, p.h0)
    y_reference, _ = p.reference()
    assert (y != y_reference).float().mean() < 0.05


X, W = torch.zeros(5, 4, 6), torch.zeros(6, 6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: functional.elman(X, W, nonlinearity="sin"),
            ValueError,
            "nonlinearity: got 'sin', expected 'tanh'",
        ),
        (lambda: functional.elman(X, W, direction="up"), ValueError, "direction: got 'up', expected one of"),
        (lambda: functional.elman(X, W, direction="bidirectional"), ValueError, "without a group axis"),
        (lambda: functional.elman(X, W[:5]), RuntimeError, r"w_hh: got shape \(5, 6\), expected \(H, H\)"),
        (lambda: functional.elman(X[0], W), RuntimeError, r"gates: got shape \(4, 6\), expected \(T, B, 6\)"),
        (
            lambda: functional.elman(X[0], W, batch_first=True),
            RuntimeError,
            r"expected \(B, T, 6\) to go with w_hh",
        ),
        (lambda: functional.elman(X, W[None]), RuntimeError, r"gates: .* expected \(T, B, 1, 6\)"),
        (
            lambda: functional.elman(X[:0], W),
            RuntimeError,
            "gates: got a sequence of 0 steps, expected at least 1",
        ),
        (lambda: functional.elman(X, W, W), RuntimeError, r"bias: got shape \(6, 6\), expected \(6,\)"),
        (lambda: functional.elman(X, W, h0=X[0, :3]), RuntimeError, r"h0: got shape \(3, 6\), expected \(4, 6\)"),
        (
            lambda: functional.elman(X, W.double()),
            RuntimeError,
            "w_hh: got torch.float64 on cpu, expected torch.float32",
        ),
        (lambda: functional.elman(X, W, h0=X[0].half()), RuntimeError, "h0: got torch.float16 on cpu"),
        (
            lambda: functional.elman(X[0], W, batch_sizes=torch.tensor([2, 1])),
            RuntimeError,
            "batch_sizes: got a sum of 3, expected the number of packed rows, 4",
        ),
    ],
)
def test_wrong_arguments_get_one_clear_line(call, error, message):
    with pytest.raises(error, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
    assert ".h:" not in str(raised.value)
