"""Every model: the shapes that the text prints, the same numbers on either's layers, mistakes, examples."""

import doctest
import importlib
import pkgutil

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import rnnfast
from rnnfast import models
from rnnfast.models import (
    CELLS,
    BidirectionalEncoder,
    Dilated,
    Feedforward,
    LanguageModel,
    ReadoutRNN,
    ResidualStack,
    Seq2Seq,
    SequenceClassifier,
    SequenceGenerator,
    Tagger,
    recurrent_layer,
)


def shapes(results):
    return [tuple(leaf.shape) for leaf in tree_leaves(results)]


@pytest.mark.parametrize("cell", CELLS)
class TestShapesOfTheText:
    def test_readout(self, cell):
        outputs, last = ReadoutRNN(10, 32, 5, cell=cell, num_layers=2)(torch.randn(4, 20, 10))
        assert outputs.shape == (4, 20, 5)
        assert shapes(last) == [(2, 4, 32)] * (2 if cell == "lstm" else 1)

    def test_classifier(self, cell):
        model = SequenceClassifier(10_000, 128, 256, 2, cell=cell)
        assert model(torch.randint(0, 10_000, (8, 50))).shape == (8, 2)

    def test_seq2seq(self, cell):
        model = Seq2Seq(10_000, 8_000, 256, 512, cell=cell)
        source, target = torch.randint(0, 10_000, (16, 30)), torch.randint(0, 8_000, (16, 25))
        assert model(source, target).shape == (16, 25, 8000)

    def test_bidirectional(self, cell):
        outputs, last = BidirectionalEncoder(10, 32, cell=cell)(torch.randn(4, 20, 10))
        assert outputs.shape == (4, 20, 64)
        assert shapes(last) == [(2, 4, 32)] * (2 if cell == "lstm" else 1)

    def test_deep(self, cell):
        outputs, last = ReadoutRNN(10, 64, 10, cell=cell, num_layers=4, dropout=0.2)(torch.randn(8, 50, 10))
        assert outputs.shape == (8, 50, 10)
        assert shapes(last) == [(4, 8, 64)] * (2 if cell == "lstm" else 1)

    def test_generator(self, cell):
        model = SequenceGenerator(2048, 64, 1000, cell=cell)
        features = torch.randn(3, 2048)
        assert model(features, torch.randint(0, 1000, (3, 20))).shape == (3, 20, 1000)
        captions = model.generate(features, 20)
        assert len(captions) == 3
        assert all(len(caption) <= 20 for caption in captions)

    def test_language_model(self, cell):
        logits, last = LanguageModel(30, 64, 128, cell=cell, num_layers=2)(torch.randint(0, 30, (64, 50)))
        assert logits.shape == (64, 50, 30)
        assert shapes(last) == [(2, 64, 128)] * (2 if cell == "lstm" else 1)


def test_feedforward_has_no_memory():
    model = Feedforward(3, 8, 5).double()
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    alone = torch.stack([model(step) for step in x.unbind(1)], 1)
    torch.testing.assert_close(model(x), alone, rtol=0, atol=1e-12)
    assert model(x).shape == (2, 6, 5)
    assert (alone[:, 1:] - alone[:, :-1]).abs().max() > 1e-3


def linear(module, x):
    return x @ module.weight.T + module.bias


@pytest.mark.parametrize("cell", CELLS)
def test_a_generator_begins_with_a_map_of_its_vector(cell):
    model = SequenceGenerator(4, 5, 7, cell=cell, num_layers=2).double()
    v = torch.randn(3, 4, dtype=torch.float64)
    state = model.initial_state(v)
    h, *c = state if cell == "lstm" else [state]
    for layer, units in enumerate((slice(0, 5), slice(5, 10))):
        torch.testing.assert_close(h[layer], torch.tanh(linear(model.h, v)[:, units]), rtol=0, atol=1e-12)
        for own in c:
            torch.testing.assert_close(own[layer], linear(model.c, v)[:, units], rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_a_decoder_begins_with_a_map_of_both_directions(cell):
    model = Seq2Seq(7, 7, 4, 5, cell=cell, num_layers=2, bidirectional=True).double()
    last, state = model.encoder(model.embedding(TOKENS))[1], model.encode(TOKENS).state
    (h_n, *c_n), (h, *c) = [s if cell == "lstm" else [s] for s in (last, state)]
    for layer in range(2):
        ahead, back = 2 * layer, 2 * layer + 1
        expected = torch.tanh(linear(model.bridge.h, torch.cat([h_n[ahead], h_n[back]], 1)))
        torch.testing.assert_close(h[layer], expected, rtol=0, atol=1e-12)
        for own, of in zip(c, c_n, strict=True):
            expected = linear(model.bridge.c, torch.cat([of[ahead], of[back]], 1))
            torch.testing.assert_close(own[layer], expected, rtol=0, atol=1e-12)


LENGTHS = torch.tensor([6, 2, 4])
TOKENS = torch.tensor([[5, 1, 0, 3, 2, 6], [6, 2, 0, 0, 0, 0], [4, 4, 1, 0, 6, 6]])
X = torch.sin(torch.arange(3 * 6 * 4, dtype=torch.float64)).view(3, 6, 4)

# How each model is built, of one cell and one package's layers, and run.
CASES = {
    "readout": (lambda o: ReadoutRNN(4, 5, 3, num_layers=2, bidirectional=True, **o), lambda m: m(X)),
    "classifier, last": (
        lambda o: SequenceClassifier(7, 4, 5, 3, num_layers=2, bidirectional=True, **o),
        lambda m: (m(TOKENS, LENGTHS), m(TOKENS), m.states(TOKENS, LENGTHS)),
    ),
    "classifier, mean": (
        lambda o: SequenceClassifier(7, 4, 5, 3, pooling="mean", **o),
        lambda m: (m(TOKENS, LENGTHS), m(TOKENS)),
    ),
    "classifier, max": (
        lambda o: SequenceClassifier(7, 4, 5, 3, pooling="max", **o),
        lambda m: (m(TOKENS, LENGTHS), m(TOKENS)),
    ),
    "generator": (
        lambda o: SequenceGenerator(4, 5, 7, num_layers=2, dropout=0.3, **o),
        lambda m: m(X[:, 0], TOKENS),
    ),
    "seq2seq": (
        lambda o: Seq2Seq(7, 7, 4, 5, num_layers=2, dropout=0.3, **o),
        lambda m: m(TOKENS, TOKENS, LENGTHS),
    ),
    "seq2seq, luong": (
        lambda o: Seq2Seq(7, 7, 4, 5, bidirectional=True, attention="luong", **o),
        lambda m: m(TOKENS, TOKENS, LENGTHS),
    ),
    "seq2seq, bahdanau": (
        lambda o: Seq2Seq(7, 7, 4, 5, bidirectional=True, attention="bahdanau", **o),
        lambda m: m(TOKENS, TOKENS, LENGTHS),
    ),
    "tagger": (lambda o: Tagger(7, 4, 5, 3, **o), lambda m: (m(TOKENS), m.loss(TOKENS, TOKENS % 3, LENGTHS))),
    "language model": (
        lambda o: LanguageModel(7, 4, 5, num_layers=3, dropout=0.3, **o),
        lambda m: m(TOKENS, m(TOKENS)[1]),
    ),
    "residual": (
        lambda o: ResidualStack(4, 5, 3, bidirectional=True, dropout=0.3, **o),
        lambda m: m(X, m(X)[1], LENGTHS),
    ),
    "dilated": (lambda o: Dilated(4, 5, 4, num_layers=2, **o), lambda m: m(X, m(X)[1])),
    "bidirectional": (lambda o: BidirectionalEncoder(4, 5, **o), lambda m: m(X, None, LENGTHS)),
}


def results(model, call):
    torch.manual_seed(3)  # dropout
    leaves = tree_leaves(call(model))
    sum(leaf.sin().sum() for leaf in leaves).backward()
    return [leaf.detach() for leaf in leaves] + [p.grad for p in model.parameters()]


@pytest.mark.parametrize("cell", [*CELLS, "rnn_relu"])
@pytest.mark.parametrize("case", CASES)
def test_both_packages_layers_give_the_same_numbers(case, cell):
    build, call = CASES[case]
    seed = torch.randint(0, 2**31, ()).item()
    pair = []
    for layers in ("torch", "rnnfast"):
        torch.manual_seed(seed)
        pair.append(build(dict(cell=cell, layers=layers)).double())
    theirs, ours = pair
    for model, package in ((theirs, "torch"), (ours, "rnnfast")):
        assert {type(m).__module__.split(".")[0] for m in model.modules() if isinstance(m, nn.RNNBase)} == {
            package
        }
    for a, b in zip(theirs.state_dict().items(), ours.state_dict().items(), strict=True):
        assert a[0] == b[0]
        assert torch.equal(a[1], b[1])
    expected = results(theirs, call)
    assert any(value.abs().max() > 1e-3 for value in expected)
    torch.testing.assert_close(results(ours, call), expected, rtol=0, atol=1e-10)


def mistakes():
    tokens, features = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3)
    classifier, seq2seq = SequenceClassifier(7, 4, 5, 3), Seq2Seq(7, 6, 4, 5)
    model, generator, tagger = LanguageModel(7, 4, 5), SequenceGenerator(4, 5, 7), Tagger(7, 4, 5, 3)

    def lengths(*values):
        return lambda: classifier(tokens, torch.tensor(values))

    return {
        "cell": (lambda: recurrent_layer("elman", 3, 4), "cell: got 'elman', expected one of 'rnn', 'lstm', "),
        "layers": (lambda: ReadoutRNN(3, 4, 5, layers="jax"), "layers: got 'jax', expected one of 'rnnfast', 't"),
        "size": (lambda: ReadoutRNN(3, -1, 5), "hidden_size: got -1, expected at least 1"),
        "output": (lambda: ReadoutRNN(3, 4, 0), "output_size: got 0, expected at least 1"),
        "baseline": (lambda: Feedforward(3, 4, 0), "output_size: got 0, expected at least 1"),
        "number of layers": (lambda: Dilated(3, 4, 2, num_layers=0), "num_layers: got 0, expected at least 1"),
        "dropout": (lambda: LanguageModel(3, 4, 5, dropout=1.5), "dropout: got 1.5, expected 0 to 1"),
        "dilation": (lambda: Dilated(3, 4, 0), "dilation: got 0, expected at least 1"),
        "pooling": (
            lambda: SequenceClassifier(7, 4, 5, 3, pooling="sum"),
            "pooling: got 'sum', expected one of 'last', 'mean', 'max'",
        ),
        "attention": (
            lambda: Seq2Seq(7, 7, 4, 5, attention="dot"),
            "attention: got 'dot', expected one of 'bahdanau', 'luong'",
        ),
        "start": (lambda: SequenceGenerator(4, 5, 7, start=7), "start: got 7, expected 0 to 6"),
        "features": (lambda: generator(features, tokens), r"features: got shape \(2, 3\), expected \(B, 4\)"),
        "features of a baseline": (lambda: Feedforward(4, 5, 6)(features), "x: got 3 features, expected 4"),
        "token": (lambda: classifier(tokens + 7), "tokens: got tokens from 7 to 7, expected 0 to 6"),
        "source": (lambda: seq2seq(tokens - 1, tokens), "source: got tokens from -1 to -1, expected 0 to 6"),
        "target": (lambda: seq2seq(tokens, tokens + 6), "target: got tokens from 6 to 6, expected 0 to 5"),
        "dtype": (
            lambda: model(features),
            r"tokens: got torch.float32 of shape \(2, 3\), expected torch.int64 of shape \(B, T\)",
        ),
        "rank": (lambda: tagger(tokens[0]), r"tokens: got torch.int64 of shape \(3,\), expected torch.int64 of"),
        "length 0": (lengths(3, 0), "lengths: got 0 in row 1, expected 1 to 3"),
        "length beyond": (lengths(4, 3), "lengths: got 4 in row 0, expected 1 to 3"),
        "number of lengths": (
            lengths(3),
            r"lengths: got torch.int64 of shape \(1,\), expected torch.int64 of shape",
        ),
        "lengths that are not whole": (lengths(3.0, 1.0), "lengths: got torch.float32 of shape"),
        "no attention": (
            lambda: seq2seq.weights(tokens, tokens),
            "attention: got None, expected a model with 'bahdanau' or 'luong'",
        ),
        "rows": (lambda: seq2seq(tokens, tokens[:1]), "target: got 1 rows, expected 2, as source"),
        "tags": (lambda: tagger.loss(tokens, tokens[:, :2]), r"tags: got shape \(2, 2\), expected \(2, 3\)"),
        "chunk": (lambda: model.chunks(tokens, 0), "length: got 0, expected at least 1"),
        "tokens of chunks": (
            lambda: model.chunks(tokens[:, :1], 5),
            r"tokens: got shape \(2, 1\), expected \(B, T\) with T at least 2",
        ),
        "states of a stack": (
            lambda: ResidualStack(3, 4, 2)(torch.zeros(2, 3, 3), torch.zeros(3, 2, 4)),
            "hx: got states of 3 recurrences, expected 2",
        ),
        "no step": (
            lambda: Dilated(3, 4, 2)(torch.zeros(2, 0, 3)),
            r"x: got shape \(2, 0, 3\), expected \(B, T, I",
        ),
        "method": (
            lambda: model.generate(tokens, 5, method="best"),
            "method: got 'best', expected one of 'greedy', 'sample', 'beam'",
        ),
        "temperature": (lambda: model.stream(tokens, temperature=0), "temperature: got 0, expected more than 0"),
        "top_k": (lambda: model.stream(tokens, top_k=0), "top_k: got 0, expected at least 1"),
        "top_p": (lambda: model.generate(tokens, 5, top_p=1.5), "top_p: got 1.5, expected more than 0 and at mo"),
        "beam": (lambda: model.generate(tokens, 5, method="beam", beam=0), "beam: got 0, expected at least 1"),
        "length": (lambda: model.generate(tokens, 0), "max_length: got 0, expected at least 1"),
        "penalty": (
            lambda: generator.generate(features.new_zeros(2, 4), 5, method="beam", length_penalty=-1),
            "length_penalty: got -1, expected at least 0",
        ),
    }


@pytest.mark.parametrize("which", mistakes())
def test_a_mistake_gets_one_clear_line(which):
    call, message = mistakes()[which]
    with pytest.raises((ValueError, IndexError), match=f"^{message}") as error:
        call()
    assert "\n" not in str(error.value)


MODULES = ["rnnfast.initialization"]
MODULES += [f"rnnfast.models.{m.name}" for m in pkgutil.iter_modules(models.__path__) if m.name[0] != "_"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs=dict(torch=torch, nn=nn, rnnfast=rnnfast))
    assert result.attempted > 0
    assert result.failed == 0
