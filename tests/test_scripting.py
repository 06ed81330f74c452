"""TorchScript: models that hold our layers are scripted and traced, trained, saved and loaded."""

import warnings

import pytest
import torch
from kinds import make, random_hx, states
from torch import nn

import rnnfast

OPTIONS = [
    {},
    dict(num_layers=2, bidirectional=True, batch_first=True),
    dict(bias=False, bptt_clip=0.01),
    dict(num_layers=2, bias=False, bidirectional=True),
]


@pytest.fixture(autouse=True)
def _deprecated():
    """torch.jit says so of itself, each time; and that a trace does not check sizes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        yield


def gradients(module, layer, *args):
    output, last = module(*args)
    loss = 10 * output.sum() + sum(s.sin().sum() for s in states(last))
    return torch.autograd.grad(loss, list(layer.parameters()))


@pytest.mark.parametrize("with_hx", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_script_gives_the_same(kind, options, with_hx, tmp_path):
    layer = make(kind, 3, 4, **options)
    lead = layer.num_layers * (2 if layer.bidirectional else 1)
    scripted = torch.jit.script(layer)
    scripted.save(tmp_path / "layer.pt")
    loaded = torch.jit.load(tmp_path / "layer.pt")
    assert list(scripted.state_dict()) == list(layer.state_dict())
    for shape in ((5, 2, 3), (4, 6, 3), (5, 3)):
        batch = () if len(shape) == 2 else (shape[0] if layer.batch_first else shape[1],)
        args = torch.randn(shape), *([random_hx(layer, lead, *batch)] if with_hx else [])
        torch.testing.assert_close(scripted(*args), layer(*args))
        torch.testing.assert_close(loaded(*args), layer(*args))
        torch.testing.assert_close(gradients(scripted, scripted, *args), gradients(layer, layer, *args))


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_script_drops_what_the_layer_drops(kind, batch_first):
    layer = make(kind, 3, 4, 2, dropout=0.5, batch_first=batch_first)
    x, found = torch.randn(5, 2, 3), []
    for module in (layer, torch.jit.script(layer)):
        torch.manual_seed(0)
        found.append(module(x))
    torch.testing.assert_close(*found)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 3)
        self.rnn = rnnfast.LSTM(3, 4, 2, bidirectional=True, dropout=0.5)
        self.gru = rnnfast.GRUCell(8, 5)
        self.lstm = rnnfast.LSTMCell(5, 4)
        self.elman = rnnfast.RNNCell(4, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        output, (_h, _c) = self.rnn(self.embedding(tokens))
        return self.elman(self.lstm(self.gru(output[-1]))[0])


@pytest.mark.parametrize("compiled_by", ["script", "trace"])
def test_a_model_that_holds_layers_and_cells(compiled_by, tmp_path):
    model = Model().eval()
    tokens, others = torch.randint(0, 10, (5, 2)), torch.randint(0, 10, (9, 4))
    expected = model(others)
    script = torch.jit.script(model) if compiled_by == "script" else torch.jit.trace(model, (tokens,))
    script.save(tmp_path / "model.pt")
    for found in (script, torch.jit.load(tmp_path / "model.pt"), model):
        torch.testing.assert_close(found(others), expected)
    script(tokens).sum().backward()
    assert all(p.grad is not None for p in model.rnn.parameters())


def test_the_model_itself_stays_what_it_was():
    """torch.jit.script puts what it reads into the model: that is still a layer of ours."""
    model = Model()
    torch.jit.script(model)
    assert isinstance(model.rnn, rnnfast.LSTM)
    packed = nn.utils.rnn.pack_sequence([torch.randn(3, 3), torch.randn(2, 3)])
    assert model.rnn(packed)[0].data.shape == (5, 8)


def test_dropout_is_that_of_training():
    model = torch.jit.script(rnnfast.GRU(3, 50, num_layers=2, dropout=0.9))
    x = torch.randn(5, 2, 3)
    assert not torch.equal(model(x)[0], model(x)[0])
    model.eval()
    assert torch.equal(model(x)[0], model(x)[0])


def test_wrong_input_gets_one_line():
    model = torch.jit.script(rnnfast.GRU(3, 4))
    with pytest.raises(Exception, match="input: got 4 dimensions, expected 2 or 3"):
        model(torch.randn(1, 1, 1, 3))
    with pytest.raises(Exception, match="input: got 0 steps, expected at least one"):
        model(torch.randn(0, 2, 3))
    with pytest.raises(Exception, match="hx: got 2 states, expected 1"):
        model(torch.randn(5, 2, 3), torch.randn(2, 2, 4))
    with pytest.raises(Exception, match=r"w_ih: got shape \(12, 3\), expected \(12, 5\)"):
        model(torch.randn(5, 2, 5))


@pytest.mark.parametrize("name", ["GRU", "GRUCell"])
def test_subclasses(name):
    """One with a forward of its own is scripted by it; others are refused, not scripted as their base."""
    base = getattr(rnnfast, name)

    class Derived(base):
        pass

    class WithForward(base):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return input + 1

    x = torch.randn(2, 3)
    assert torch.equal(torch.jit.script(WithForward(3, 4))(x), x + 1)
    with pytest.raises(TypeError, match=f"got Derived, expected rnnfast.{name} itself"):
        torch.jit.script(Derived(3, 4))
    weight = "weight_hh_l0" if name == "GRU" else "weight_hh"
    parametrized = nn.utils.parametrizations.spectral_norm(base(3, 4), weight)
    with pytest.raises(TypeError, match="expected rnnfast"):
        torch.jit.script(parametrized)


def test_a_trace_without_gradients_keeps_the_clip():
    layer, x = rnnfast.LSTM(3, 4, bptt_clip=1e-3), torch.randn(5, 2, 3)
    with torch.no_grad():
        traced = torch.jit.trace(layer, (x,))
    torch.testing.assert_close(gradients(traced, traced, x), gradients(layer, layer, x))
