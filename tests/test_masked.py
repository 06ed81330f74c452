"""Lengths that the host does not know: masked, the same results and gradients as of rows that are cut by them."""

import pytest
import torch
from kinds import KINDS, make, random_hx, states

import rnnfast
from rnnfast.lab import record_gradients
from rnnfast.modules import masked

T, B = 7, 5
LENGTHS = torch.tensor([4, 0, T, 1, 5])
OPTIONS = [
    {},
    dict(bidirectional=True),
    dict(num_layers=2, bidirectional=True, batch_first=True),
    dict(num_layers=2, bias=False),
]
MADE = {**KINDS, "LSTM normalised": ("LSTM", dict(layer_norm=True))}


@pytest.fixture
def unknown(monkeypatch):
    """unknown(yes): whether lengths count as unknown to the host."""
    return lambda yes: monkeypatch.setattr(masked, "are_unknown", lambda lengths: yes and lengths is not None)


def drawn(name, options):
    kind, own = MADE[name]
    layer = make(kind, 3, 4, dtype=torch.float64, **own, **options)
    for p in layer.parameters():  # gains and biases of norms, too
        torch.nn.init.normal_(p, std=0.5)
    x = torch.randn(*((B, T) if layer.batch_first else (T, B)), 3, dtype=torch.float64, requires_grad=True)
    hx = random_hx(layer, layer.num_layers * (2 if layer.bidirectional else 1), B)
    for s in states(hx):
        s.requires_grad_()
    return layer, x, hx


def poisoned(x, batch_first):
    beyond = torch.arange(T).unsqueeze(1) >= LENGTHS
    return x.masked_fill((beyond.t() if batch_first else beyond).unsqueeze(2), torch.nan)


@pytest.mark.parametrize("with_hx", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", MADE)
def test_as_cut(name, options, with_hx, unknown):
    layer, x, hx = drawn(name, options)
    found = []
    for masks in (True, False):
        unknown(masks)
        given = poisoned(x, layer.batch_first), hx if with_hx else None
        results = [states(r) for r in layer(*given, lengths=LENGTHS, all_states=True)]
        values = [v for each in results for v in each]
        leaves = [x, *(states(hx) if with_hx else []), *layer.parameters()]
        loss = sum((1 + i) * v.sin().sum() for i, v in enumerate(values))
        found.append([*values, *torch.autograd.grad(loss, leaves)])
        plain = layer(*given, lengths=LENGTHS)
        torch.testing.assert_close([plain[0], *states(plain[1])], values[: 1 + len(results[1])])
    torch.testing.assert_close(*found)


def test_recorded_norms(kind, unknown):
    layer, x, _ = drawn(kind, dict(bidirectional=True))
    found = []
    for masks in (True, False):
        unknown(masks)
        with record_gradients(layer) as recording:
            layer(x, lengths=LENGTHS)[0].sin().sum().backward()
        found.append(recording["l0"])
    torch.testing.assert_close(*found)


def test_lengths_out_of_range_are_clamped_unless_strict(unknown, monkeypatch):
    unknown(True)
    layer, x = rnnfast.GRU(3, 4, bidirectional=True), torch.randn(T, B, 3)
    wrong = torch.tensor([4, -3, T + 9, 1, 5])
    torch.testing.assert_close(layer(x, lengths=wrong), layer(x, lengths=LENGTHS))
    monkeypatch.setenv("RNNFAST_STRICT", "1")
    with pytest.raises(ValueError, match="lengths: got -3 in row 1, expected 0 to 7"):
        layer(x, lengths=wrong)


def test_wrong_arguments_get_one_clear_line(unknown):
    unknown(True)
    layer = rnnfast.GRU(3, 4)
    with pytest.raises(ValueError, match=r"lengths: got torch.float32 of shape \(5,\), expected torch.int64"):
        layer(torch.zeros(T, B, 3), lengths=LENGTHS.float())
    with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0 in RNN"):
        layer(torch.zeros(0, B, 3), lengths=torch.zeros(B, dtype=torch.int64))


def test_without_shapes_that_depend_on_values(kind):
    """Whole graphs, programs for any T and B, samples with lengths of their own, tensors without values."""
    layer, x, _ = drawn(kind, dict(bidirectional=True))
    x = x.detach()
    expected = layer(x, lengths=LENGTHS)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, lengths=LENGTHS), expected)
    dims = {"T": torch.export.Dim("T"), "B": torch.export.Dim("B")}
    program = torch.export.export(
        layer,
        (torch.randn(4, 3, 3, dtype=torch.float64),),
        dict(lengths=torch.tensor([3, 4, 0])),
        dynamic_shapes=dict(input={0: dims["T"], 1: dims["B"]}, lengths={0: dims["B"]}),
    )
    torch.testing.assert_close(program.module()(x, lengths=LENGTHS), expected)
    many, lengths = torch.stack([x, x.cos()]), torch.stack([LENGTHS, LENGTHS.flip(0)])
    samples = torch.func.vmap(lambda x, n: layer(x, lengths=n)[0])(many, lengths)
    for found, one, n in zip(samples, many, lengths, strict=True):
        torch.testing.assert_close(found, layer(one, lengths=n)[0])
    output, last = layer.to("meta")(x.to("meta"), lengths=LENGTHS.to("meta"))
    assert output.shape == expected[0].shape
    assert [s.shape for s in states(last)] == [s.shape for s in states(expected[1])]
