"""torch.library.opcheck: the operators as torch wants them, for all that stands on them."""

import pytest
import torch
from problems import CELLS, KINDS, draw_kind, op

from rnnfast.reference import GATES, HAVE_C

# Tracing takes seconds, so that most of these are slow.
QUICK = [("elman_tanh", "packed"), ("elman_relu", "batch"), ("lstm projected", "time"), ("gru", "batch")]
CASES = [
    pytest.param(kind, layout, marks=[] if (kind, layout) in QUICK else pytest.mark.slow)
    for kind in KINDS
    for layout in ("time", "batch", "packed")
]
ALL = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def requiring_grad(*tensors):
    return [t if t is None else t.detach().requires_grad_() for t in tensors]


@pytest.mark.parametrize(("kind", "layout"), CASES)
def test_a_layer(kind, layout):
    p = draw_kind(kind, 2, 2, 4, 2, layout=layout)
    given = p.gates, None, None
    if p.cell != "layer_norm_lstm":  # which takes what is projected already
        x, w_ih = torch.randn(*p.gates.shape[:-2], 5).double(), torch.randn(p.w_hh.shape[:2].numel(), 5).double()
        given = x, w_ih, p.bias
    input, w_ih, b_ih = given
    tensors = requiring_grad(input, w_ih, p.w_hh, p.w_hr, b_ih, p.bias, p.h0, p.c0)
    options = dict(clip=p.clip, seed=p.seed, noise=p.noise)
    torch.library.opcheck(op.recurrence, (*tensors, *p.options, False), options, test_utils=ALL)
    torch.library.opcheck(op.recurrence, (*tensors, *p.options, True), options, test_utils=ALL[:3])


@pytest.mark.parametrize(("kind", "layout"), CASES)
def test_its_adjoint(kind, layout):
    p = draw_kind(kind, 2, 2, 4, 2, layout=layout)
    with torch.no_grad():
        results = p.forward(saves=True)
    y, *saved = results[0], *results[3 if p.cell in HAVE_C else 2 :]
    by = requiring_grad(p.dy, p.dh_n, p.dc_n, p.dc)
    tensors = requiring_grad(p.gates, None, p.w_hh, p.w_hr, None, p.bias, p.h0, p.c0)
    needs = 1 | 4 | 8 * (p.w_hr is not None) | 32 | 64 | 128 * (p.cell in HAVE_C) | 512 * (p.cell == "gru") | 1024
    arguments = (*by, *tensors, y, saved, *p.options, needs)
    options = dict(clip=p.clip, seed=p.seed, noise=p.noise)
    torch.library.opcheck(op.recurrence_bptt, arguments, options, test_utils=ALL)


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell(cell):
    K = GATES[cell] * 7
    c = torch.randn(3, 7) if cell == "lstm" else None
    tensors = (torch.randn(3, 4), torch.randn(K, 4), torch.randn(K, 7), torch.randn(K), torch.randn(K))
    for given in (tensors, requiring_grad(*tensors)):
        torch.library.opcheck(op.cell, (*given, torch.randn(3, 7), c, cell), test_utils=ALL)
