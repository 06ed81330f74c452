"""Rows of their own lengths: each as if it were alone, whatever stands in the padding."""

import pytest
import torch

from rnnfast.models import (
    CELLS,
    BidirectionalEncoder,
    ResidualStack,
    Seq2Seq,
    SequenceClassifier,
    Tagger,
    last_hidden,
    recurrent_layer,
    run,
)

T = 7
LENGTHS = torch.tensor([3, 7, 1, 5])


def tokens():
    return torch.randint(0, 9, (len(LENGTHS), T))


def other_padding(tokens):
    """The same rows, with every token beyond their lengths another one."""
    return torch.where(torch.arange(T) < LENGTHS.unsqueeze(1), tokens, (tokens + 4) % 9)


def assert_rows_alone(result, alone):
    """That each row of a batch gives what `alone` gives for it and its length, and zero beyond."""
    for i, n in enumerate(LENGTHS.tolist()):
        expected = alone(i, n)
        torch.testing.assert_close(result[i, : len(expected)], expected, rtol=0, atol=1e-12)
        assert torch.count_nonzero(result[i, len(expected) :]) == 0


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
@pytest.mark.parametrize("cell", CELLS)
def test_classifier(cell, pooling, bidirectional):
    options = dict(cell=cell, num_layers=2, bidirectional=bidirectional, pooling=pooling)
    model = SequenceClassifier(9, 4, 6, 3, **options).double()
    given = tokens()
    logits = model(given, LENGTHS)
    assert_rows_alone(logits, lambda i, n: model(given[i : i + 1, :n])[0])
    assert torch.equal(logits, model(other_padding(given), LENGTHS))
    assert_rows_alone(model.states(given, LENGTHS), lambda i, n: model.states(given[i : i + 1, :n])[0])
    # By the definition of each pooling.
    states = model.states(given, LENGTHS)[1]  # the row that has all steps
    summary = {
        "last": torch.cat([states[-1, :6], states[0, 6:]]),
        "mean": states.mean(0),
        "max": states.max(0).values,
    }
    torch.testing.assert_close(logits[1], model.readout(summary[pooling]), rtol=0, atol=1e-12)


def test_padding_has_no_gradient():
    model = SequenceClassifier(9, 4, 6, 3, cell="gru", bidirectional=True, pooling="mean").double()
    given = torch.where(torch.arange(T) < LENGTHS.unsqueeze(1), tokens() % 8, 8)
    model(given, LENGTHS).sum().backward()
    assert torch.count_nonzero(model.embedding.weight.grad[8]) == 0
    assert torch.count_nonzero(model.embedding.weight.grad[:8]) > 0


@pytest.mark.parametrize("cell", CELLS)
def test_the_state_after_each_rows_last_step(cell):
    layer = recurrent_layer(cell, 4, 6, num_layers=2, bidirectional=True).double()
    x = torch.randn(len(LENGTHS), T, 4, dtype=torch.float64)
    _, last = run(layer, x, None, LENGTHS)
    alone = [run(layer, x[i : i + 1, :n])[1] for i, n in enumerate(LENGTHS.tolist())]
    for got, *rows in zip(*[s if cell == "lstm" else (s,) for s in (last, *alone)], strict=True):
        torch.testing.assert_close(got, torch.cat(rows, 1), rtol=0, atol=1e-12)
    assert last_hidden(last, bidirectional=True).shape == (len(LENGTHS), 12)


@pytest.mark.parametrize("model", [BidirectionalEncoder(4, 6, cell="lstm"), ResidualStack(4, 6, 3, cell="gru")])
def test_encoders(model):
    model = model.double()
    x = torch.randn(len(LENGTHS), T, 4, dtype=torch.float64)
    result = model(x, None, LENGTHS)[0]
    for i, n in enumerate(LENGTHS.tolist()):  # a sum over layers is not zero beyond a row's length
        torch.testing.assert_close(result[i, :n], model(x[i : i + 1, :n])[0][0], rtol=0, atol=1e-12)
    x[torch.arange(T) >= LENGTHS.unsqueeze(1)] += 1
    again = model(x, None, LENGTHS)[0]
    assert torch.equal(*[r[torch.arange(T) < LENGTHS.unsqueeze(1)] for r in (result, again)])


def test_tagger():
    model = Tagger(9, 4, 6, 3, cell="lstm").double()
    given, tags = tokens(), torch.randint(0, 3, (len(LENGTHS), T))
    decoded = model.decode(given, LENGTHS)
    logits = model(given, LENGTHS)
    rows = [model(given[i : i + 1, :n])[0] for i, n in enumerate(LENGTHS.tolist())]
    for i, row in enumerate(rows):
        torch.testing.assert_close(logits[i, : len(row)], row, rtol=0, atol=1e-12)
        assert decoded[i] == row.argmax(1).tolist()
    losses = [row.log_softmax(1)[range(len(row)), tags[i, : len(row)]] for i, row in enumerate(rows)]
    torch.testing.assert_close(model.loss(given, tags, LENGTHS), -torch.cat(losses).mean(), rtol=0, atol=1e-12)
    ignored = torch.where(torch.arange(T) < LENGTHS.unsqueeze(1), tags, -100)
    assert torch.equal(model.loss(given, tags, LENGTHS), model.loss(other_padding(given), ignored, LENGTHS))


def test_tags_are_found_without_dropout():
    model = Tagger(9, 4, 6, 3, num_layers=2, dropout=0.5)
    given = torch.randint(0, 9, (8, 30))
    found = model.train().decode(given)
    assert model.training
    assert found == model.eval().decode(given)


@pytest.mark.parametrize("attention", [None, "bahdanau", "luong", "scaled_luong"])
@pytest.mark.parametrize("cell", CELLS)
def test_seq2seq(cell, attention):
    model = Seq2Seq(9, 5, 4, 6, cell=cell, bidirectional=True, attention=attention).double()
    source, target = tokens(), torch.randint(0, 5, (len(LENGTHS), 4))
    logits = model(source, target, LENGTHS)
    assert_rows_alone(logits, lambda i, n: model(source[i : i + 1, :n], target[i : i + 1])[0])
    assert torch.equal(logits, model(other_padding(source), target, LENGTHS))
    options = dict(start=0, end=1, max_length=6, beam=3)
    decoded = model.decode(source, LENGTHS, **options)
    for i, n in enumerate(LENGTHS.tolist()):
        assert decoded[i] == model.decode(source[i : i + 1, :n], **options)[0]
    if attention is not None:
        weights = model.weights(source, target, LENGTHS)
        assert torch.count_nonzero(weights[:, :, 1:][2]) == 0
        torch.testing.assert_close(weights.sum(2), torch.ones_like(weights[:, :, 0]))
