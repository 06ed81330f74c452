"""Layers with weights of 8 bits: beside the same layer with rounded weights, and what they refuse."""

import copy
import pickle

import pytest
import torch
from kinds import make, random_hx, states
from problems import CELLS
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import rnnfast
from rnnfast.quantized import rounded
from rnnfast.reference import GATES

SIZES = [(5, 7), (16, 16), (3, 33), (130, 65), (1030, 20)]
OPTIONS = [
    dict(),
    dict(bias=False),
    dict(num_layers=2, bidirectional=True),
    dict(batch_first=True, bidirectional=True),
]


def with_rounded_weights(layer):
    """In float64, what the quantized layer computes but for the rounding of what it multiplies."""
    exact = copy.deepcopy(layer).double()
    with torch.no_grad():
        for name, p in exact.named_parameters():
            if name.startswith("weight"):
                w = p.float()  # as it is rounded: in float64 a tie might go the other way
                scale = w.abs().amax(1, keepdim=True) / 127
                p.copy_((w / scale).round().double() * scale)
    return exact


def assert_near(actual, expected, limit):
    """Errors in terms of the largest value."""
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        assert (a - e).abs().max() <= limit * e.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("I", "H"), SIZES)
def test_as_a_layer_with_rounded_weights(kind, I, H, options):  # noqa: E741
    layer = make(kind, I, H, **options)
    quantized, exact = rnnfast.quantize_weights(layer), with_rounded_weights(layer)
    x = torch.randn(6, 5, I) * torch.logspace(-3, 0, 5)[:, None]  # rows of very different size
    recurrences = options.get("num_layers", 1) * (2 if "bidirectional" in options else 1)
    hx = random_hx(layer, recurrences, x.size(0 if layer.batch_first else 1))
    exact_hx = tuple(s.double() for s in states(hx))
    for given, of_exact in ((None, None), (hx, exact_hx if len(exact_hx) > 1 else exact_hx[0])):
        output, last = quantized(x, given)
        expected, expected_last = exact(x.double(), of_exact)
        assert_near([output, *states(last)], [expected, *states(expected_last)], 2e-3)


@torch.no_grad()
def test_packed_unbatched_and_one_row_are_the_same_rows(kind):
    layer = rnnfast.quantize_weights(make(kind, 6, 20, bidirectional=True))
    xs = [torch.randn(T, 6) for T in (4, 7, 1)]
    packed = pack_sequence(xs, enforce_sorted=False)
    for x, row in zip(xs, nn.utils.rnn.unpack_sequence(layer(packed)[0]), strict=True):
        assert torch.equal(layer(x)[0], row)
        assert torch.equal(layer(x.unsqueeze(1))[0][:, 0], row)


@torch.no_grad()
def test_the_same_bits_whatever_the_plan(kind):
    layer, x = rnnfast.quantize_weights(make(kind, 30, 70)), torch.randn(9, 7, 30)
    expected = layer(x)[0]
    for schedule in ("batch_split", "unit_split"):
        for workers in (1, 2, 3):
            with rnnfast.forced_plan(schedule, workers=workers):
                assert torch.equal(layer(x)[0], expected)


def test_weights_take_a_quarter(kind):
    layer = make(kind, 128, 128)
    size = sum(p.numel() * p.element_size() for p in layer.parameters())
    quantized = rnnfast.quantize_weights(layer)
    assert not list(quantized.parameters())
    assert sum(b.numel() * b.element_size() for b in quantized.buffers()) < 0.3 * size


def test_the_largest_integers_do_not_overflow():
    layer = rnnfast.RNN(4000, 17, nonlinearity="relu")
    with torch.no_grad():
        for p in layer.parameters():
            p.fill_(1)
        output, _ = rnnfast.quantize_weights(layer)(torch.ones(1, 1, 4000))
    torch.testing.assert_close(output, torch.full_like(output, 4002))


@torch.no_grad()
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_row(kind, bad):
    layer = rnnfast.quantize_weights(make(kind, 40, 20))
    x = torch.randn(2, 3, 40)
    good = layer(x)[0]
    x[0, 1, 33] = bad
    output = layer(x)[0]
    assert output[:, 1].isnan().any()
    assert torch.equal(output[:, [0, 2]], good[:, [0, 2]])


@torch.no_grad()
def test_copies_and_state_dicts(kind):
    layer, other = [rnnfast.quantize_weights(make(kind, 5, 9, num_layers=2)) for _ in range(2)]
    x = torch.randn(4, 2, 5)
    other.load_state_dict(layer.state_dict())
    for same in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(same(x)[0], layer(x)[0])


@torch.no_grad()
def test_layers_of_a_model_are_replaced():
    model = nn.ModuleDict({"a": nn.LSTM(5, 6), "b": nn.Sequential(rnnfast.GRU(6, 7), nn.Linear(7, 2))})
    linear = model["b"][1]
    assert rnnfast.quantize_weights(model) is model
    assert isinstance(model["a"], rnnfast.LSTM)
    assert isinstance(model["b"][0], rnnfast.GRU)
    assert model["b"][1] is linear
    assert not list(model["a"].parameters())


@torch.no_grad()
def test_autocast_gives_its_dtype(kind):
    layer, x = rnnfast.quantize_weights(make(kind, 5, 9)), torch.randn(4, 2, 5)
    with torch.autocast("cpu", torch.bfloat16):
        output, last = layer(x)
    assert {t.dtype for t in (output, *states(last))} == {torch.bfloat16}
    torch.testing.assert_close(output.float(), layer(x)[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("layout", ["padded", "batch_first", "packed"])
@pytest.mark.parametrize("cell", CELLS)
def test_schema_and_fake_kernel(cell, layout):
    n, lstm = GATES[cell], cell == "lstm"
    w_ih, w_hh = rounded(torch.randn(2, n * 7, 5), n), rounded(torch.randn(2, n * 7, 7), n)
    batch_sizes = torch.tensor([3, 2, 1]) if layout == "packed" else None
    x = torch.randn(6, 5) if layout == "packed" else torch.randn(4, 3, 5)
    h0 = torch.randn(2, 4 if layout == "batch_first" else 3, 7)
    args = (x, w_ih, w_hh, [], torch.randn(2, n * 7), None, h0, h0 if lstm else None)
    options = (cell, 7, 7, 2, layout == "batch_first", batch_sizes)
    op = torch.ops.rnnfast.recurrence_int8
    torch.library.opcheck(op, (*args, *options), test_utils=("test_schema", "test_faketensor"))


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"module: got int, expected a torch\.nn\.Module"):
        rnnfast.quantize_weights(3)
    with pytest.raises(ValueError, match=r"weight_ih_l0: got torch\.float64 on cpu, expected float32 on the CPU"):
        rnnfast.quantize_weights(nn.RNN(2, 3).double())
    layer = nn.RNN(2, 3)
    with torch.no_grad():
        layer.weight_hh_l0[0, 0] = float("nan")
    with pytest.raises(ValueError, match="weight_hh_l0: got values that are not finite"):
        rnnfast.quantize_weights(layer)


def test_wrong_input(kind):
    layer = rnnfast.quantize_weights(make(kind, 5, 9))
    with pytest.raises(RuntimeError, match="got one that requires a gradient, but quantized layers have none"):
        layer(torch.randn(4, 2, 5, requires_grad=True))
    with pytest.raises(ValueError, match=r"got torch\.float64, expected float32"):
        layer(torch.randn(4, 2, 5).double())
    with pytest.raises(RuntimeError, match="Expected 5, got 6"):
        layer(torch.randn(4, 2, 6))
    with pytest.raises(RuntimeError, match="hidden"):
        layer(torch.randn(4, 2, 5), random_hx(make(kind, 5, 9), 1, 3))


def test_wrong_arguments_of_the_operator():
    q, s = rounded(torch.randn(1, 7, 5), 1)
    h, t = rounded(torch.randn(1, 7, 7), 1)
    op, x = torch.ops.rnnfast.recurrence_int8, torch.randn(3, 2, 5)
    with pytest.raises(RuntimeError, match=r"w_ih: got shapes \(1, 1, 4, 1, 16, 2\) and"):
        op(x, [h, s], [h, t], [], None, None, None, None, "elman_tanh", 7, 7)
    with pytest.raises(RuntimeError, match="w_hh: expected int8 weights and float32 scales"):
        op(x, [q, s], [h.float(), t], [], None, None, None, None, "elman_tanh", 7, 7)
    with pytest.raises(RuntimeError, match="P: got 6, expected H without w_hr"):
        op(x, [q, s], [h, t], [], None, None, None, None, "elman_tanh", 7, 6)
