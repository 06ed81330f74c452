"""recompute and checkpoint_every: the same results and gradients from less memory."""

import itertools

import pytest
import torch
from kinds import KINDS, make, random_hx, states
from torch.autograd import gradgradcheck
from torch.nn.utils.rnn import pack_padded_sequence

import rnnfast
from rnnfast import _checkpoint
from rnnfast.lab import record_gradients

T, B = 7, 4
FORMS = ["time", "batch_first", "unbatched", "packed", "unsorted", "lengths and resets"]
WAYS = [dict(recompute=True), dict(checkpoint_every=1), dict(checkpoint_every=3), dict(checkpoint_every=7)]
OPTIONS = [{}, dict(bidirectional=True), dict(num_layers=2, bidirectional=True, bias=False)]


def run(layer, form, x, hx, lengths, reset):
    """Output and last states, as a list."""
    if form in ("packed", "unsorted"):
        sizes = lengths.sort(descending=True).values if form == "packed" else lengths
        output, last = layer(pack_padded_sequence(x, sizes, enforce_sorted=form == "packed"), hx)
        return [output.data, *states(last)]
    if form == "lengths and resets":
        output, last = layer(x, hx, lengths=lengths, reset=reset)
    else:
        output, last = layer({"unbatched": x[:, 0], "batch_first": x.transpose(0, 1)}.get(form, x), hx)
    return [output, *states(last)]


def both(kind, way, form, options):
    """With and without, the same weights; and arguments."""
    options = dict(options, batch_first=form == "batch_first", dtype=torch.float64)
    ours, plain = make(kind, 3, 4, **options, **way), make(kind, 3, 4, **options)
    plain.load_state_dict(ours.state_dict())
    lead = ours.num_layers * (2 if ours.bidirectional else 1)
    hx = random_hx(ours, lead, *([] if form == "unbatched" else [B]))
    for s in states(hx):
        s.requires_grad_()
    x = torch.randn(T, B, 3, dtype=torch.float64, requires_grad=True)
    return ours, plain, (x, hx, torch.tensor([4, 7, 1, 5]), torch.rand(T, B) < 0.2)


def gradients(layer, form, x, hx, *args, of=slice(None)):
    results = run(layer, form, x, hx, *args)[of]
    loss = sum((r * (1 + i)).sin().sum() for i, r in enumerate(results))
    leaves = [x, *([] if hx is None else states(hx)), *layer.parameters()]
    return torch.autograd.grad(loss, leaves, allow_unused=True)


@pytest.fixture
def counted(monkeypatch):
    """How often the backward pass that recomputes ran."""
    calls, original = [], _checkpoint._gradients
    monkeypatch.setattr(_checkpoint, "_gradients", lambda *args: calls.append(1) or original(*args))
    return calls


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_same_results_and_gradients(kind, options, form, way, counted):
    ours, plain, args = both(kind, way, form, options)
    torch.testing.assert_close(run(ours, form, *args), run(plain, form, *args))
    torch.testing.assert_close(gradients(ours, form, *args), gradients(plain, form, *args))
    # An RNN has nothing but states.
    assert len(counted) == (0 if kind == "RNN" and "recompute" in way else ours.num_layers)
    x, _, *others = args
    without = (x, None, *others)
    torch.testing.assert_close(gradients(ours, form, *without), gradients(plain, form, *without))


@pytest.mark.parametrize(
    ("kind", "of"), [(kind, i) for kind, i in itertools.product(KINDS, range(3)) if i < 2 or "LSTM" in kind]
)
@pytest.mark.parametrize("form", ["time", "packed"])
def test_a_loss_of_one_result(kind, form, of):
    ours, plain, args = both(kind, dict(checkpoint_every=3), form, dict(bidirectional=True))
    of = slice(of, of + 1)
    torch.testing.assert_close(gradients(ours, form, *args, of=of), gradients(plain, form, *args, of=of))


def test_clipped_and_recorded(kind):
    ours, plain, args = both(kind, dict(checkpoint_every=3), "time", dict(bidirectional=True))
    found = []
    for layer in (ours, plain):
        layer.bptt_clip = 1e-2
        with record_gradients(layer) as record:
            found.append([*gradients(layer, "time", *args), *(record[name] for name in record.names)])
    torch.testing.assert_close(*found)


def test_recorded_where_the_graph_is_kept(kind):
    ours, plain, (x, *_) = both(kind, dict(checkpoint_every=2), "time", {})
    found = []
    for layer in (ours, plain):
        with record_gradients(layer) as record:
            torch.autograd.grad(layer(x)[0].sin().sum(), x, create_graph=True)
        found.append(record["l0"])
    torch.testing.assert_close(*found)


def test_second_derivatives(kind):
    ours, plain, (x, *_) = both(kind, dict(checkpoint_every=2), "time", {})

    def penalties(layer):
        (gradient,) = torch.autograd.grad(layer(x)[0].sin().sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), list(layer.parameters()))

    torch.testing.assert_close(penalties(ours), penalties(plain))
    assert gradgradcheck(lambda x: ours(x)[0], x, fast_mode=True)


def test_under_transforms_and_compilers(kind):
    ours, plain, (x, *_) = both(kind, dict(checkpoint_every=2), "time", {})

    def loss(layer):
        return lambda x: layer(x)[0].sin().sum()

    x = x.detach()
    torch.testing.assert_close(torch.func.grad(loss(ours))(x), torch.func.grad(loss(plain))(x))
    xs = torch.stack([x, x.sin()])
    vmapped = [torch.func.vmap(torch.func.grad(loss(layer)))(xs) for layer in (ours, plain)]
    torch.testing.assert_close(*vmapped)
    torch._dynamo.reset()  # what was compiled too often elsewhere is not compiled again
    compiled, x = torch.compile(ours, backend="eager", fullgraph=True), x.clone().requires_grad_()
    args = ("time", x, None, None, None)
    torch.testing.assert_close(gradients(compiled, *args), gradients(plain, *args))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_dtype(kind, dtype):
    ours, plain, (x, *_) = both(kind, dict(checkpoint_every=3), "time", {})
    for layer in (ours, plain):
        layer.to(dtype)
    x = x.detach().to(dtype).requires_grad_()
    found, expected = [[g.float() for g in gradients(m, "time", x, None, None, None)] for m in (ours, plain)]
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_many_chunks_add_up(kind, dtype):
    """In float32: sums of hundreds of terms in 16 bits would stand still."""
    ours, x = make(kind, 3, 4, dtype=dtype, checkpoint_every=2), torch.rand(1000, 2, 3).to(dtype)
    exact = make(kind, 3, 4, dtype=torch.float64)
    exact.load_state_dict(ours.state_dict())
    outputs = [layer(x.to(layer.weight_hh_l0.dtype))[0].double() for layer in (ours, exact)]
    found = [
        torch.autograd.grad(100 * y.mean(), list(m.parameters()))
        for y, m in zip(outputs, (ours, exact), strict=True)
    ]
    for a, b in zip(*found, strict=True):
        assert (a.double() - b).norm() <= 0.05 * b.norm()


def kept_bytes(layer, x):
    """What is kept for the backward pass beside input, output and weights."""
    known, kept = {t.untyped_storage().data_ptr() for t in (x, *layer.parameters())}, {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        output, _ = layer(x)
    known.add(output.untyped_storage().data_ptr())
    return sum(size for place, size in kept.items() if place not in known)


def test_memory(kind):
    x = torch.randn(400, 2, 8, requires_grad=True)
    plain, every, again = [
        kept_bytes(make(kind, 8, 8, **way), x) for way in ({}, dict(checkpoint_every=20), dict(recompute=True))
    ]
    assert again == 0
    if kind == "RNN":
        assert plain == every == 0  # its output is all that it needs
    else:
        assert every <= 0.05 * plain


def test_options():
    layer = rnnfast.LSTM(3, 4, recompute=True, checkpoint_every=5)
    assert repr(layer) == "LSTM(3, 4, recompute=True, checkpoint_every=5)"
    assert repr(rnnfast.LSTM(3, 4)) == "LSTM(3, 4)"
    with pytest.raises(ValueError, match="checkpoint_every: got 0, expected a number of steps or None"):
        rnnfast.GRU(3, 4, checkpoint_every=0)
