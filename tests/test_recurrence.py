"""The recurrence operators against the float64 reference."""

import itertools
import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from problems import TOLERANCE, assert_close, check_against_oracle, draw

import rnnfast
from rnnfast import reference

DTYPES = list(TOLERANCE)
EDGES = [*range(1, 18), 23, 24, 25, 31, 32, 33, 47, 48, 49, 63, 64, 65, 127, 128, 129]
OPTIONAL = ("bias", "h0", "dy", "dh_n")
op = torch.ops.rnnfast


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sizes_around_tile_edges(dtype):
    for H, B in itertools.product(EDGES, range(1, 18)):
        if dtype == torch.float32 or (H + B) % 4 == 0:
            check_against_oracle(draw(random.randint(1, 6), B, H, dtype=dtype))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_small_sizes(dtype):
    for T, B, H in itertools.product(range(1, 18), repeat=3):
        check_against_oracle(draw(T, B, H, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["time", "batch", "packed"])
@pytest.mark.parametrize("direction", [0, 1, 2])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_options(nonlinearity, direction, layout, dtype):
    options = dict(nonlinearity=nonlinearity, direction=direction, layout=layout)
    for size in range(len(OPTIONAL) + 1):
        for present in itertools.combinations(OPTIONAL, size):
            check_against_oracle(draw(7, 9, 37, 3, dtype, **options, given=present))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("weights", ["packed", "in_place"])
@pytest.mark.parametrize("schedule", ["batch_split", "unit_split"])
def test_every_schedule(schedule, weights, workers, dtype):
    with rnnfast.forced_plan(schedule, weights, workers):
        for layout, H in itertools.product(["time", "batch", "packed"], [1, 15, 33, 64, 65, 130, 200]):
            T, B, G = random.randint(1, 7), random.randint(1, 14), random.randint(1, 3)
            check_against_oracle(draw(T, B, H, G, dtype, direction=random.randint(0, 2), layout=layout))


def test_more_workers_than_threads():
    """Shares whose workers never come are taken by those that do."""
    torch.set_num_threads(1)
    with rnnfast.forced_plan("unit_split", workers=4):
        check_against_oracle(draw(9, 3, 300))
        assert "workers=4 crew=4" in op.last_plan()


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    T=st.integers(1, 12),
    B=st.integers(1, 40),
    H=st.integers(1, 140),
    G=st.integers(1, 3),
    dtype=st.sampled_from(DTYPES),
    nonlinearity=st.sampled_from(["tanh", "relu"]),
    direction=st.integers(0, 2),
    layout=st.sampled_from(["time", "batch", "packed"]),
    present=st.sets(st.sampled_from(OPTIONAL)),
    threads=st.integers(1, 5),
    schedule=st.sampled_from([None, "batch_split", "unit_split"]),
    weights=st.sampled_from([None, "packed", "in_place"]),
    workers=st.sampled_from([None, 1, 2, 4]),
)
def test_any_shape_and_options(
    T, B, H, G, dtype, nonlinearity, direction, layout, present, threads, schedule, weights, workers
):
    torch.set_num_threads(threads)
    options = dict(nonlinearity=nonlinearity, direction=direction, layout=layout, given=present)
    with rnnfast.forced_plan(schedule, weights, workers):
        check_against_oracle(draw(T, B, H, G, dtype, **options))


@pytest.mark.parametrize("layout", ["time", "batch", "packed"])
def test_schemas_and_fake_kernels(layout):
    p = draw(5, 3, 7, 2, layout=layout)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(op.elman, (p.gates, p.w_hh, p.bias, p.h0, *p.options), test_utils=checks)
    y, _ = p.forward(op.elman)
    torch.library.opcheck(op.elman_bptt, (p.dy, p.dh_n, y, p.w_hh, *p.options), test_utils=checks)


@pytest.mark.parametrize("layout", ["time", "batch", "packed"])
def test_schemas_and_fake_kernels_of_layers(layout):
    p = draw(5, 3, 7, 2, layout=layout)
    x, w_ih = torch.randn(*p.gates.shape[:-2], 4).double(), torch.randn(14, 4).double()
    checks = ("test_schema", "test_faketensor")
    weights = (w_ih, p.w_hh, p.bias, p.bias, p.h0)
    torch.library.opcheck(op.elman_layer, (x, *weights, *p.options), test_utils=checks)
    y, h_n = op.elman_layer(x, *weights, *p.options)
    for needs in (63, 21, 42):
        args = (p.dy.flatten(-2), h_n, x, w_ih, p.w_hh, p.h0, y, *p.options, needs)
        torch.library.opcheck(op.elman_layer_bptt, args, test_utils=checks)
    cell = (
        torch.randn(3, 4),
        torch.randn(7, 4),
        torch.randn(7, 7),
        torch.randn(7),
        None,
        torch.randn(3, 7),
        "tanh",
    )
    torch.library.opcheck(op.elman_cell, cell, test_utils=checks)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("input", (5, 3, 9), r"w_ih: got shape \(7, 4\), expected \(7, 9\)"),
        ("input", (5, 2, 4), r"y: got shape \(5, 3, 7\), expected \(5, 2, 7\)"),
        ("w_ih", (8, 4), r"w_ih: got shape \(8, 4\), expected \(7, 4\)"),
        ("h0", (1, 4, 7), r"h0: got shape \(1, 4, 7\), expected \(1, 3, 7\)"),
        ("dy", (5, 3, 6), "dy: got shape"),
    ],
)
def test_wrong_arguments_of_a_layers_adjoint(name, shape, message):
    shapes = dict(dy=(5, 3, 7), input=(5, 3, 4), w_ih=(7, 4), w_hh=(7, 7), h0=(1, 3, 7), y=(5, 3, 7))
    args = {key: torch.randn(size) for key, size in {**shapes, name: shape}.items()}
    options = dict(dh_n=None, nonlinearity="tanh", direction=0, batch_first=False, batch_sizes=None, needs=63)
    with pytest.raises(RuntimeError, match=message):
        op.elman_layer_bptt(**args, **options)


def test_strided_and_expanded_inputs():
    p = draw(5, 6, 20, 2, torch.float32)
    expected = p.forward(op.elman)[0]
    # The same values, lying in memory in other ways.
    every_other = torch.stack([p.gates, p.gates], -1).flatten(-2)[..., ::2]
    transposed = p.gates.permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3)
    w_t = p.w_hh.mT.contiguous().mT
    h0_wide = torch.cat([p.h0, p.h0], -1)[..., :20]
    for gates in (every_other, transposed):
        assert torch.equal(op.elman(gates, w_t, p.bias, h0_wide, *p.options)[0], expected)
    step = torch.randn(1, 1, 1, 20)
    y, _ = op.elman(step.expand(5, 6, 2, 20), p.w_hh, None, None, *p.options)
    expanded, _ = op.elman(step.repeat(5, 6, 2, 1), p.w_hh, None, None, *p.options)
    assert torch.equal(y, expanded)
    dy = torch.randn(1, 1, 1, 1).expand(5, 6, 2, 20)
    assert torch.equal(
        op.elman_bptt(dy, None, y, p.w_hh, *p.options),
        op.elman_bptt(dy.contiguous(), None, y, p.w_hh, *p.options),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["gates", "h0", "bias", "w_hh", "dy", "dh_n"])
def test_nan_and_inf_propagate_as_in_the_reference(where, bad, nonlinearity, dtype):
    p = draw(4, 3, 20, dtype=dtype, nonlinearity=nonlinearity)
    tensor = getattr(p, where)
    place = {"gates": (1, 1, 0, 5), "dy": (1, 1, 0, 5), "h0": (0, 1, 5), "dh_n": (0, 1, 5)}.get(where, (0, 5))
    tensor[place] = bad
    y, h_n = p.forward(op.elman)
    y64, h_n64 = p.to(torch.float64).forward(reference.elman)
    assert_close(y, y64)
    assert_close(h_n, h_n64)
    dgates = p.bptt(op.elman_bptt, y)
    assert_close(dgates, p.to(torch.float64).bptt(reference.elman_bptt, y.double()))
    if len(place) > 2:
        assert torch.isfinite(y[:, [0, 2]]).all(), "other rows of the batch are touched"
        assert torch.isfinite(dgates[:, [0, 2]]).all(), "other rows of the batch are touched"


@pytest.mark.parametrize("T", [0, 3])
@pytest.mark.parametrize("B", [0, 2])
def test_no_steps_or_no_rows(T, B):
    p = draw(T, B, 4)
    y, h_n = p.forward(op.elman)
    assert y.shape == (T, B, 1, 4)
    assert h_n.shape == (1, B, 4)
    if T == 0:
        assert torch.equal(h_n, p.h0)
    assert p.bptt(op.elman_bptt, y).shape == (T, B, 1, 4)


def ulp_error(actual, exact):
    """Errors of float32 values in units of the last place of the exact ones (none negative)."""
    rounded = exact.float()
    above = torch.nextafter(rounded, torch.tensor(torch.inf))
    ulp = torch.where(rounded < 1, above - rounded, 2.0**-24).double()
    return (actual.double() - exact).abs() / ulp


def through_tanh(x):
    """The kernel's tanh of each value: one step from nothing."""
    rows = x.reshape(1, -1, 1, 64)
    return op.elman(rows, torch.zeros(1, 64, 64), None, None, "tanh")[0].flatten()


def test_tanh_is_within_two_ulp_everywhere():
    patterns = torch.arange(0, 0x7F800000, 251, dtype=torch.int64)[: 64 * 130_000]
    near_one = torch.arange(0x3F000000, 0x41200000, 17, dtype=torch.int64)
    for bits in (patterns, near_one):
        x = bits[: bits.numel() // 64 * 64].to(torch.int32).view(torch.float32)
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
    rows = x.reshape(1, -1, 1, 64)
    y, _ = op.elman(rows, torch.zeros(1, 64, 64, dtype=torch.float64), None, None, "tanh")
    torch.testing.assert_close(y.flatten(), torch.tanh(x), rtol=8e-16, atol=0)


def changed(name, value):
    p = draw(3, 2, 4, 1, torch.float32)
    arguments = dict(gates=p.gates, w_hh=p.w_hh, bias=p.bias, h0=p.h0, nonlinearity="tanh")
    return lambda: op.elman(**{**arguments, name: value})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (changed("w_hh", torch.zeros(1, 4, 5)), r"w_hh: got shape \(1, 4, 5\), expected \(1, 4, 4\)"),
        (changed("bias", torch.zeros(4)), r"bias: got shape \(4,\), expected \(1, 4\)"),
        (changed("h0", torch.zeros(1, 3, 4)), r"h0: got shape \(1, 3, 4\), expected \(1, 2, 4\)"),
        (changed("h0", torch.zeros(1, 2, 4).double()), "h0: got a dtype that differs"),
        (changed("gates", torch.zeros(3, 2, 4)), r"gates: got 3 dimensions, expected 4 \(T, B, G, K\)"),
        (
            changed("gates", torch.zeros(3, 2, 1, 4, dtype=torch.int32)),
            "gates: got a dtype without kernel, expected float32",
        ),
        (changed("nonlinearity", "sigmoid"), "nonlinearity: got 'sigmoid', expected 'tanh' or 'relu'"),
        (changed("direction", 3), "direction: got 3, expected 0"),
        (changed("seed", 1), "reset, seed, precision: reserved"),
        (changed("batch_sizes", torch.tensor([2, 1])), r"gates: got 4 dimensions, expected 3 \(N, G, K\)"),
    ],
)
def test_wrong_arguments_get_one_clear_line(call, message):
    with pytest.raises(RuntimeError, match=message):
        call()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([1, 2], "batch_sizes: got 2 at step 1, expected positive numbers that do not grow"),
        ([2, 0], "batch_sizes: got 0 at step 1"),
        ([2, 2], "batch_sizes: got a sum of 4, expected the number of packed rows, 3"),
        ([2.0, 1.0], "batch_sizes: expected a 1-D int64 tensor"),
    ],
)
def test_wrong_batch_sizes(sizes, message):
    with pytest.raises(RuntimeError, match=message):
        op.elman(torch.zeros(3, 1, 4), torch.zeros(1, 4, 4), None, None, "tanh", 0, False, torch.tensor(sizes))
