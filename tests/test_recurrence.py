"""The recurrence operators against the float64 reference."""

import itertools
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from problems import (
    CELLS,
    KINDS,
    OPTIONAL,
    TOLERANCE,
    assert_close,
    check_against_oracle,
    draw,
    draw_kind,
    elman_bptt,
)

import rnnfast
from rnnfast.reference import GATES, HAVE_C

DTYPES = list(TOLERANCE)
EDGES = [*range(1, 18), 23, 24, 25, 31, 32, 33, 47, 48, 49, 63, 64, 65, 127, 128, 129]
op = torch.ops.rnnfast


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_sizes_around_tile_edges(kind, dtype):
    for H, B in itertools.product(EDGES, range(1, 18)):
        if (H + B) % (2 if kind == "elman_tanh" and dtype == torch.float32 else 12) == 0:
            check_against_oracle(draw_kind(kind, random.randint(1, 6), B, H, dtype=dtype))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_all_small_sizes(kind, dtype):
    for T, B, H in itertools.product(range(1, 18), repeat=3):
        if kind == "lstm normalised" and ((H < 8 and T > 4) or (dtype != torch.float64 and T > 6)):
            continue  # what rounding lost grows with steps, the more the fewer units are normalised
        if kind.startswith("elman") or (T + B + H) % 3 == 0:
            check_against_oracle(draw_kind(kind, T, B, H, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["time", "batch", "packed"])
@pytest.mark.parametrize("direction", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_options(kind, direction, layout, dtype):
    own = [name for name in OPTIONAL if kind.startswith("lstm") or name not in ("c0", "dc_n", "dc")]
    pairs = list(itertools.combinations(own, 2))
    for absent in [(), *random.sample(pairs, 3), own]:
        given = [name for name in own if name not in absent]
        check_against_oracle(draw_kind(kind, 7, 9, 37, 3, dtype, direction=direction, layout=layout, given=given))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("weights", ["packed", "in_place"])
@pytest.mark.parametrize("schedule", ["batch_split", "unit_split"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_schedule(kind, schedule, weights, workers, dtype):
    sizes = itertools.product(["time", "batch", "packed"], [1, 15, 33, 64, 65, 130, 200])
    with rnnfast.forced_plan(schedule, weights, workers):
        for layout, H in random.sample(list(sizes), 2):
            T, B, G = random.randint(1, 7), random.randint(1, 14), random.randint(1, 3)
            check_against_oracle(draw_kind(kind, T, B, H, G, dtype, direction=random.randint(0, 2), layout=layout))


def test_more_workers_than_threads():
    """Shares whose workers never come are taken by those that do."""
    torch.set_num_threads(1)
    with rnnfast.forced_plan("unit_split", workers=4):
        check_against_oracle(draw(9, 3, 300))
        assert "workers=4 crew=4" in op.last_plan()


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    T=st.integers(1, 12),
    B=st.integers(1, 40),
    H=st.integers(1, 140),
    G=st.integers(1, 3),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(list(KINDS)),
    direction=st.integers(0, 2),
    layout=st.sampled_from(["time", "batch", "packed"]),
    present=st.sets(st.sampled_from(OPTIONAL)),
    threads=st.integers(1, 5),
    schedule=st.sampled_from([None, "batch_split", "unit_split"]),
    weights=st.sampled_from([None, "packed", "in_place"]),
    workers=st.sampled_from([None, 1, 2, 4]),
)
def test_any_shape_and_options(
    T, B, H, G, dtype, kind, direction, layout, present, threads, schedule, weights, workers
):
    torch.set_num_threads(threads)
    options = dict(direction=direction, layout=layout, given=present)
    with rnnfast.forced_plan(schedule, weights, workers):
        check_against_oracle(draw_kind(kind, T, B, H, G, dtype, **options))


@pytest.mark.parametrize("layout", ["time", "batch", "packed"])
@pytest.mark.parametrize("kind", KINDS)
def test_schemas_and_fake_kernels(kind, layout):
    checks = ("test_schema", "test_faketensor")
    p = draw_kind(kind, 5, 3, 8, 2, layout=layout)
    x, w_ih = torch.randn(*p.gates.shape[:-2], 4).double(), torch.randn(p.w_hh.shape[:2].numel(), 4).double()
    normalised, options = p.cell == "layer_norm_lstm", dict(noise=p.noise, seed=p.seed)
    b_ih = None if normalised else p.bias
    for input, weight in ((p.gates, None), (x, w_ih)):
        if normalised and weight is not None:
            continue  # it takes what is projected already
        args = (input, weight, p.w_hh, p.w_hr, b_ih, p.bias, p.h0, p.c0, *p.options)
        for saves in (False, True):
            torch.library.opcheck(op.recurrence, (*args, saves), options, test_utils=checks)
        y, h_n, *others = op.recurrence(*args, True, **options)
        c_n = others.pop(0) if p.cell in HAVE_C else None
        given = (torch.randn_like(y), h_n, c_n, p.dc, None if weight is None else input, weight)
        for needs in (255, 85, 170, 255 + (3 << 9), 2047 - (weight is None)):
            needs &= ~(16 * normalised)  # there is no b_ih
            bptt = (*given, p.w_hh, p.w_hr, b_ih, p.bias, p.h0, p.c0, y, others, *p.options, needs)
            torch.library.opcheck(op.recurrence_bptt, bptt, options, test_utils=checks)


@pytest.mark.parametrize("cell", CELLS)
def test_schemas_and_fake_kernels_of_cells(cell):
    K = GATES[cell] * 7
    h, c = torch.randn(3, 7), torch.randn(3, 7) if cell == "lstm" else None
    args = (torch.randn(3, 4), torch.randn(K, 4), torch.randn(K, 7), torch.randn(K), None, h, c, cell)
    torch.library.opcheck(op.cell, args, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(
    ("cell", "name", "shape", "message"),
    [
        ("elman_tanh", "input", (5, 3, 9), r"w_ih: got shape \(7, 4\), expected \(7, 9\)"),
        ("elman_tanh", "input", (5, 2, 4), r"y: got shape \(5, 3, 7\), expected \(5, 2, 7\)"),
        ("elman_tanh", "w_ih", (8, 4), r"w_ih: got shape \(8, 4\), expected \(7, 4\)"),
        ("elman_tanh", "h0", (1, 4, 7), r"h0: got shape \(1, 4, 7\), expected \(1, 3, 7\)"),
        ("elman_tanh", "dy", (5, 3, 6), "dy: got shape"),
        ("lstm", "c0", (1, 4, 7), r"c0: got shape \(1, 4, 7\), expected \(1, 3, 7\)"),
        ("lstm", "dc", (5, 3, 7), r"dc: got shape \(5, 3, 7\), expected \(5, 3, 1, 7\)"),
        ("lstm", "dc_n", (1, 3, 8), r"dc_n: got shape \(1, 3, 8\), expected \(1, 3, 7\)"),
        ("lstm", "saved", (5, 3, 1, 7), r"saved: got shape \(5, 3, 1, 7\), expected \(5, 3, 1, 28\)"),
        ("gru", "w_hh", (20, 7), r"w_hh: got shape \(20, 7\), expected \(G, K, P\), K a multiple of 3"),
        ("elman_tanh", "w_hh", (2, 7, 7), r"w_ih: got shape \(7, 4\), expected \(14, 4\)"),
        ("gru", "w_hr", (7, 7), "w_hr: only an LSTM has a projection"),
    ],
)
def test_wrong_arguments_of_the_adjoint(cell, name, shape, message):
    K = GATES[cell] * 7
    shapes = dict(dy=(5, 3, 7), input=(5, 3, 4), w_ih=(K, 4), w_hh=(K, 7), h0=(1, 3, 7), y=(5, 3, 7))
    shapes |= {name: shape} if name != "saved" else {}
    args = dict.fromkeys(["dh_n", "dc_n", "dc", "w_hr", "b_ih", "b_hh", "c0"]) | {
        k: torch.randn(s) for k, s in shapes.items()
    }
    saved = [(5, 3, 1, K), (5, 3, 1, 7)] if name != "saved" else [shape, shape]
    args["saved"] = [torch.randn(s) for s in saved] if cell in ("lstm", "gru") else []
    options = dict(cell=cell, direction=0, batch_first=False, batch_sizes=None, needs=255)
    with pytest.raises(RuntimeError, match=message):
        op.recurrence_bptt(**args, **options)


@pytest.mark.parametrize("groups", [1, 3])
def test_the_adjoint_wants_a_matrix_for_each_group(groups):
    p = draw(3, 2, 4, 2)
    with pytest.raises(RuntimeError, match=rf"w_hh: got shape \({groups}, 4, 4\), expected \(2, 4, 4\)"):
        replace(p, w_hh=torch.zeros(groups, 4, 4).double()).bptt(p.forward(saves=True))


@pytest.mark.parametrize("kind", KINDS)
def test_strided_and_expanded_inputs(kind):
    p = draw_kind(kind, 5, 6, 20, 2, torch.float32)
    results = p.forward(saves=True)
    # The same values, lying in memory in other ways.
    every_other = torch.stack([p.gates, p.gates], -1).flatten(-2)[..., ::2]
    transposed = p.gates.permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3)
    w_t = p.w_hh.mT.contiguous().mT
    h0_wide = torch.cat([p.h0, p.h0], -1)[..., : p.h0.size(-1)]
    for gates in (every_other, transposed):
        other = replace(p, gates=gates, w_hh=w_t, h0=h0_wide)
        assert torch.equal(other.forward()[0], results[0])
    step = torch.randn(1, 1, 1, p.gates.size(-1))
    expanded, repeated = [replace(p, gates=g) for g in (step.expand_as(p.gates), step.repeat(5, 6, 2, 1))]
    assert torch.equal(expanded.forward()[0], repeated.forward()[0])
    dy = torch.randn(1, 1, 1, 1).expand_as(results[0])
    given = [replace(p, dy=d).bptt(results)[0] for d in (dy, dy.contiguous())]
    assert torch.equal(*given)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["gates", "h0", "bias", "w_hh", "dy", "dh_n"])
def test_nan_and_inf_propagate_as_in_the_reference(where, bad, cell, dtype):
    p = draw(4, 3, 20, dtype=dtype, cell=cell)
    tensor = getattr(p, where)
    place = {"gates": (1, 1, 0, 5), "dy": (1, 1, 0, 5), "h0": (0, 1, 5), "dh_n": (0, 1, 5)}.get(where, (0, 5))
    tensor[place] = bad
    results, exact = p.forward(saves=True), p.to(torch.float64)
    for actual, expected in zip(results[:2], exact.reference(), strict=False):
        assert_close(actual, expected)
    dgates = p.bptt(results)[0]
    if cell.startswith("elman"):
        assert_close(dgates, elman_bptt(exact, results[0].double())[0])
    if len(place) > 2:
        assert torch.isfinite(results[0][:, [0, 2]]).all(), "other rows of the batch are touched"
        assert torch.isfinite(dgates[:, [0, 2]]).all(), "other rows of the batch are touched"


@pytest.mark.parametrize("T", [0, 3])
@pytest.mark.parametrize("B", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_no_steps_or_no_rows(kind, T, B):
    p = draw_kind(kind, T, B, 4)
    results = p.forward(saves=True)
    assert results[0].shape == p.dy.shape
    assert results[1].shape == p.h0.shape
    if T == 0:
        assert torch.equal(results[1], p.h0)
        assert p.c0 is None or torch.equal(results[2], p.c0)
    if T == 0:
        return
    gradients = p.gradients(results)
    for name, t in p.inputs().items():
        gradient = gradients[name]
        assert gradient.shape == t.shape
        assert torch.isfinite(gradient).all(), name


def test_a_cell_state_keeps_float32_where_arrays_have_16_bits():
    """Small increments that bfloat16 would lose against a large c."""
    T, H = 64, 16
    gates = torch.zeros(T, 1, 1, 4 * H, dtype=torch.bfloat16)
    gates[..., :H], gates[..., H : 2 * H], gates[..., 2 * H : 3 * H] = 30, 30, 2.0**-9
    c0 = torch.ones(1, 1, H, dtype=torch.bfloat16)
    w_hh = torch.zeros(1, 4 * H, H, dtype=torch.bfloat16)
    c_n = op.recurrence(gates, None, w_hh, None, None, None, None, c0, "lstm")[2]
    torch.testing.assert_close(c_n.float(), torch.full((1, 1, H), 1 + T * 2.0**-9), rtol=2.0**-8, atol=0)


def changed(name, value):
    p = draw(3, 2, 4, 1, torch.float32)
    arguments = dict(input=p.gates, w_hh=p.w_hh, b_hh=p.bias, h0=p.h0, cell="elman_tanh")
    arguments |= dict.fromkeys(["w_ih", "w_hr", "b_ih", "c0"])
    return lambda **more: op.recurrence(**{**arguments, name: value, **more})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (changed("w_hh", torch.zeros(1, 4, 5)), r"w_hh: got shape \(1, 4, 5\), expected \(1, 4, 4\)"),
        (changed("b_hh", torch.zeros(5)), r"b_hh: got shape \(5,\), expected \(4,\)"),
        (changed("c0", torch.zeros(1, 2, 4)), "c0: only an LSTM has a cell state"),
        (changed("w_ih", torch.zeros(5, 4)), "input: got 4 dimensions, expected 2 or 3"),
        (changed("h0", torch.zeros(1, 3, 4)), r"h0: got shape \(1, 3, 4\), expected \(1, 2, 4\)"),
        (changed("h0", torch.zeros(1, 2, 4).double()), "h0: got a dtype that differs"),
        (changed("input", torch.zeros(3, 2, 4)), r"input: got 3 dimensions, expected 4 \(T, B, G, K\)"),
        (
            changed("input", torch.zeros(3, 2, 1, 4, dtype=torch.int32)),
            "input: got a dtype without kernel, expected float32",
        ),
        (changed("cell", "lstn"), "cell: got 'lstn', expected one of 'elman_tanh', 'elman_relu', 'lstm', 'gru'"),
        (changed("direction", 3), "direction: got 3, expected 0"),
        (
            lambda: replace(draw(3, 2, 4), clip=-1.0).bptt(draw(3, 2, 4).forward(saves=True)),
            "clip: got -1, expected a positive number",
        ),
        (changed("precision", "half"), "precision: got 'half', expected 'ieee' or 'tf32'"),
        (changed("batch_sizes", torch.tensor([2, 1])), r"input: got 4 dimensions, expected 3 \(N, G, K\)"),
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
        changed("input", torch.zeros(3, 1, 4))(batch_sizes=torch.tensor(sizes))
