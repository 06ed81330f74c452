"""Cells that the package does not ship run through its schedules, forward and adjoint."""

import ctypes

import pytest
import torch
from problems import random_batch_sizes

from rnnfast.sequences import Layout, is_reversed


@pytest.fixture(scope="module")
def library(compiled):
    return compiled("cells.cpp")


def pointers(tensors):
    for t in tensors:
        assert t is None or (t.is_contiguous() and t.dtype == torch.float64)
    return (ctypes.c_void_p * len(tensors))(*[None if t is None else t.data_ptr() for t in tensors])


def longs(values):
    return (ctypes.c_int64 * len(values))(*values)


def pointer(t):
    return None if t is None else ctypes.c_void_p(t.data_ptr())


def run(library, cell, backward, sizes, streams, ends, matrices, vector, split):
    T, B, G, units, direction, batch_sizes = sizes
    offsets = None if batch_sizes is None else batch_sizes.cumsum(0) - batch_sizes
    matrices = [*matrices, None][:2]
    matrix_sizes = [n for m in matrices for n in ((0, 0) if m is None else m.shape[1:])]
    library.run_test_cell(
        cell,
        backward,
        *map(ctypes.c_int64, (T, B, G)),
        longs(units),
        direction,
        pointer(batch_sizes),
        pointer(offsets),
        len(streams),
        pointers(streams),
        longs([s.size(-1) for s in streams]),
        len(ends),
        pointers(ends),
        ctypes.c_int64(ends[0].size(-1)),
        pointers(matrices),
        longs(matrix_sizes),
        pointer(vector),
        *split,
    )


def unroll(step, x, state, direction, batch_sizes):
    """Runs step(g, x_t, state) -> (outputs, state) per group in its direction; state is a tuple of (B, W)."""
    layout = Layout(False, batch_sizes)
    xs = layout.steps(x)
    outputs = [[None] * x.size(-2) for _ in xs]
    last = []
    for g in range(x.size(-2)):
        held = tuple(s[g] for s in state)
        order = range(len(xs))
        for t in reversed(order) if is_reversed(g, direction) else order:
            n = xs[t].size(0)
            outputs[t][g], new = step(g, xs[t][:, g], tuple(s[:n] for s in held))
            held = tuple(torch.cat([a, b[n:]]) for a, b in zip(new, held, strict=True))
        last.append(held)
    columns = len(outputs[0][0])
    joined = [layout.join([torch.stack([o[i] for o in step], 1) for step in outputs]) for i in range(columns)]
    return joined, [torch.stack([held[i] for held in last]) for i in range(len(state))]


def poison(*shape):
    return torch.full(shape, torch.nan, dtype=torch.float64)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


# split: workers, crew, weights in place
CASES = [
    pytest.param(direction, packed, split, id=f"direction {direction} packed {packed} split {split}")
    for direction in (0, 1, 2)
    for packed in (False, True)
    for split in ((1, 1, False), (3, 1, True), (2, 2, False), (3, 3, True), (4, 2, True))
]


def problem(direction, packed, H, P):
    T, B, G = 5, 7, 2
    batch_sizes = random_batch_sizes(T, B) if packed else None
    rows = (int(batch_sizes.sum()),) if packed else (T, B)
    return (T, B, G, (H, P), direction, batch_sizes), (*rows, G)


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("direction", "packed", "split"), CASES)
@pytest.mark.parametrize(("H", "P"), [(13, 6), (7, 21), (32, 16)])
def test_two_matrix_phases(library, direction, packed, split, H, P):
    sizes, rows = problem(direction, packed, H, P)
    _, B, G = sizes[:3]
    x, h0 = randn(*rows, H).requires_grad_(), randn(G, B, P).requires_grad_()
    w, v = randn(G, H, P) / P**0.5, randn(G, P, H) / H**0.5

    def step(g, x_t, state):
        m = torch.tanh(x_t + state[0] @ w[g].T)
        h = m @ v[g].T
        return (m, h), (h,)

    (m, y), (h_n,) = unroll(step, x, (h0,), direction, sizes[-1])
    got_m, got_y, got_h_n = poison(*rows, H), poison(*rows, P), poison(G, B, P)
    run(library, 0, 0, sizes, [x.detach(), got_m, got_y], [h0.detach(), got_h_n], [w, v], None, split)
    assert_same(got_m, m.detach())
    assert_same(got_y, y.detach())
    assert_same(got_h_n, h_n.detach())

    dy, dh_n = randn(*rows, P), randn(G, B, P)
    (dx,) = torch.autograd.grad([y, h_n], [x], [dy, dh_n])
    got_dh, got_dx = poison(*rows, P), poison(*rows, H)
    run(library, 0, 1, sizes, [dy, got_m, got_dh, got_dx], [dh_n], [w, v], None, split)
    assert_same(got_dx, dx)


@pytest.mark.parametrize(("direction", "packed", "split"), CASES)
@pytest.mark.parametrize("H", [3, 13, 32])
def test_row_normalised(library, direction, packed, split, H):
    sizes, rows = problem(direction, packed, H, 0)
    _, B, G = sizes[:3]
    x, s0, h0 = (
        randn(*rows, H).requires_grad_(),
        randn(G, B, H).requires_grad_(),
        torch.zeros(G, B, H, dtype=torch.float64),
    )
    w, gain = randn(G, H, H) / H**0.5, randn(G, H)

    def step(g, x_t, state):
        h, s = state
        a = x_t + h @ w[g].T
        h = torch.tanh(gain[g] * a / (a.square().mean(-1, keepdim=True) + 1e-5).sqrt())
        s = h * (s / 2 + 1)
        return (a, h, s), (h, s)

    (a, h, s), (_, s_n) = unroll(step, x, (h0, s0), direction, sizes[-1])
    got, got_s_n = [poison(*rows, H) for _ in range(3)], poison(G, B, H)
    run(library, 1, 0, sizes, [x.detach(), *got], [s0.detach(), got_s_n], [w], gain, split)
    for actual, expected in zip((*got, got_s_n), (a, h, s, s_n), strict=True):
        assert_same(actual, expected.detach())

    ds, ds_n = randn(*rows, H), randn(G, B, H)
    dx, ds0 = torch.autograd.grad([s, s_n], [x, s0], [ds, ds_n])
    got_dx, got_ds0 = poison(*rows, H), poison(G, B, H)
    run(library, 1, 1, sizes, [ds, *got, got_dx], [ds_n, s0.detach(), got_ds0], [w], gain, split)
    assert_same(got_dx, dx)
    assert_same(got_ds0, ds0)
