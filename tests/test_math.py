"""The kernels' tanh and sigmoid beside torch's in float64."""

import torch

import rnnfast  # noqa: F401 - loads the operators

op = torch.ops.rnnfast


def ulp_error(actual, exact):
    """Errors of float32 values in units of the last place of the exact ones (none negative)."""
    rounded = exact.float()
    above = torch.nextafter(rounded, torch.tensor(torch.inf))
    ulp = torch.where(rounded < 1, above.double() - rounded.double(), 2.0**-24)
    return (actual.double() - exact).abs() / ulp


def through_tanh(x):
    """The kernel's tanh of each value: one step from nothing."""
    rows = x.reshape(1, -1, 1, 64)
    w_hh = torch.zeros(1, 64, 64, dtype=x.dtype)
    return op.recurrence(rows, None, w_hh, None, None, None, None, None, "elman_tanh")[0].flatten()


def through_sigmoid(x):
    """The kernel's sigmoid: an LSTM's input gate after one step from nothing."""
    rows = torch.nn.functional.pad(x.reshape(1, -1, 1, 64), (0, 192))
    w_hh = torch.zeros(1, 256, 64, dtype=x.dtype)
    results = op.recurrence(rows, None, w_hh, None, None, None, None, None, "lstm", saves=True)
    return results[3][..., :64].flatten()


def positive_floats():
    """Every 251st float32, and more where the functions bend."""
    patterns = torch.arange(0, 0x7F800000, 251, dtype=torch.int64)[: 64 * 130_000]
    bends = torch.arange(0x3F000000, 0x42D00000, 37, dtype=torch.int64)
    for bits in (patterns, bends):
        yield bits[: bits.numel() // 64 * 64].to(torch.int32).view(torch.float32)


def test_tanh_is_within_two_ulp_everywhere():
    for x in positive_floats():
        y = through_tanh(x)
        assert (y >= 0).all()
        assert ulp_error(y, torch.tanh(x.double())).max() <= 2
        assert torch.equal(through_tanh(-x), -y), "not odd"


def test_tanh_of_special_values():
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([0.0, 1e-30, inf, -inf, nan, 1e-45, -1e-45, 1e38, 20.0, -20.0] + [0.0] * 54)
    expected = torch.tensor([0.0, 1e-30, 1, -1, nan, 1e-45, -1e-45, 1, 1, -1] + [0.0] * 54)
    y = through_tanh(x)
    assert torch.equal(y.nan_to_num(7.0), expected.nan_to_num(7.0))


def test_float64_tanh():
    x = torch.cat(
        [
            torch.linspace(-25, 25, 64 * 5000, dtype=torch.float64),
            torch.logspace(-300, 0, 64, dtype=torch.float64),
        ]
    )
    torch.testing.assert_close(through_tanh(x), torch.tanh(x), rtol=8e-16, atol=0)


def test_sigmoid_is_within_two_ulp_everywhere():
    for x in positive_floats():
        for signed in (x[::4], -x[1::4]):
            signed = signed[: signed.numel() // 64 * 64]
            y = through_sigmoid(signed)
            assert ((y >= 0) & (y <= 1)).all()
            assert ulp_error(y, torch.sigmoid(signed.double())).max() <= 2


def test_sigmoid_of_special_values():
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([0.0, -0.0, inf, -inf, nan, 1e-45, 1e38, -1e38, 20.0, -104.5] + [0.0] * 54)
    expected = torch.tensor([0.5, 0.5, 1, 0, nan, 0.5, 1, 0, 1, 0] + [0.5] * 54)
    assert torch.equal(through_sigmoid(x).nan_to_num(7.0), expected.nan_to_num(7.0))


def test_float64_sigmoid():
    x = torch.linspace(-700, 700, 64 * 5000, dtype=torch.float64)
    torch.testing.assert_close(through_sigmoid(x), torch.sigmoid(x), rtol=8e-16, atol=0)
