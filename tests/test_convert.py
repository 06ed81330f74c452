"""convert() and revert() on models as people have them."""

import copy

import pytest
import torch
from torch import nn

import rnnfast


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.rnn = nn.RNN(4, 6, num_layers=2, batch_first=True, bidirectional=True)
        self.cells = nn.ModuleList([nn.RNNCell(12, 5)])
        self.other = nn.LSTM(4, 3)

    def forward(self, x):
        output, _ = self.rnn(self.embed(x))
        h = None
        for t in range(x.size(1)):
            h = self.cells[0](output[:, t], h)
        return h


NAMES = ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"]


class Custom(nn.RNN):
    pass


class CustomLSTM(nn.LSTM):
    pass


class CustomCell(nn.GRUCell):
    pass


def types(model):
    return [type(m) for m in model.modules()]


def test_convert_and_revert_keep_everything_but_the_class():
    model = Tagger()
    before, names = types(model), list(dict(model.named_modules()))
    parameters = list(model.parameters())
    x = torch.randint(0, 10, (3, 5))
    expected = model(x)
    lines = []
    assert rnnfast.convert(model, report=lines.append) is model
    assert lines == [
        "rnn: torch.nn.RNN -> rnnfast.RNN",
        "cells.0: torch.nn.RNNCell -> rnnfast.RNNCell",
        "other: torch.nn.LSTM -> rnnfast.LSTM",
    ]
    assert type(model.rnn) is rnnfast.RNN
    assert type(model.cells[0]) is rnnfast.RNNCell
    assert type(model.other) is rnnfast.LSTM
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(dict(model.named_modules())) == names
    torch.testing.assert_close(model(x), expected)
    assert rnnfast.revert(model, report=None) is model
    assert types(model) == before
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("name", NAMES)
def test_every_class_there_and_back(name):
    plain, fast = getattr(nn, name), getattr(rnnfast, name)
    model = plain(2, 3, dtype=torch.float64)
    x = torch.randn(4, 2, dtype=torch.float64)
    expected = model(x)
    lines = []
    rnnfast.convert(model, report=lines.append)
    assert type(model) is fast
    torch.testing.assert_close(model(x), expected)
    rnnfast.revert(model, report=lines.append)
    assert type(model) is plain
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    there, back = f"torch.nn.{name} -> rnnfast.{name}", f"rnnfast.{name} -> torch.nn.{name}"
    assert lines == [f"(the model itself): {there}", f"(the model itself): {back}"]


def test_a_projection_is_kept():
    model = nn.LSTM(2, 3, proj_size=2, dtype=torch.float64)
    x = torch.randn(4, 1, 2, dtype=torch.float64)
    expected = model(x)
    torch.testing.assert_close(rnnfast.convert(model, report=None)(x), expected)


def test_default_report_prints(capsys):
    rnnfast.convert(nn.Sequential(nn.RNN(2, 3)))
    assert capsys.readouterr().out == "0: torch.nn.RNN -> rnnfast.RNN\n"


def test_a_root_layer_and_modes_and_hooks():
    layer = nn.RNN(2, 3).eval()
    called = []
    layer.register_forward_hook(lambda module, args, output: called.append(type(module)))
    layer.weight_hh_l0.register_hook(lambda gradient: called.append("gradient"))
    converted = rnnfast.convert(layer, report=None)
    assert converted is layer
    assert not converted.training
    converted(torch.randn(4, 1, 2))[0].sum().backward()
    assert called == [rnnfast.RNN, "gradient"]


def test_a_module_used_twice_stays_shared():
    shared = nn.RNN(4, 4)
    model = nn.ModuleDict({"a": shared, "b": shared})
    rnnfast.convert(model, report=None)
    assert model["a"] is model["b"]
    assert type(model["b"]) is rnnfast.RNN


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Custom(2, 3), "RNN"),
        (lambda: CustomLSTM(2, 3), "LSTM"),
        (lambda: CustomCell(2, 3), "GRUCell"),
        (lambda: parametrized(nn.RNN(2, 3)), "RNN"),
        (lambda: parametrized(nn.GRU(2, 3)), "GRU"),
    ],
)
def test_subclasses_are_left_and_reported(make, name):
    model = nn.Sequential(make())
    before = types(model)
    lines = []
    rnnfast.convert(model, report=lines.append)
    assert len(lines) == 1
    assert "left" in lines[0]
    assert f"is a subclass of torch.nn.{name}, not that class itself" in lines[0]
    assert types(model) == before


def parametrized(layer):
    nn.utils.parametrize.register_parametrization(layer, "weight_hh_l0", nn.Identity())
    return layer


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_scripted_modules_are_left(name):
    kind = DeprecationWarning if torch.__version__ < (2, 14) else (DeprecationWarning, FutureWarning)
    with pytest.warns(kind, match="torch.jit.script"):
        model = nn.Sequential(torch.jit.script(getattr(nn, name)(2, 3)))
    lines = []
    rnnfast.convert(model, report=lines.append)
    assert isinstance(model[0], torch.jit.ScriptModule)
    assert lines == [f"0: left, {name} is compiled by TorchScript"]


def test_converting_twice_has_nothing_to_say():
    model = rnnfast.convert(nn.Sequential(*[getattr(nn, name)(2, 3) for name in NAMES]), report=None)
    lines = []
    rnnfast.convert(model, report=lines.append)
    assert lines == []


def test_an_optimizer_made_before_goes_on():
    torch.manual_seed(0)
    plain = Tagger()
    fast = copy.deepcopy(plain)
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.01) for m in (plain, fast)]
    for step in range(4):
        if step == 2:
            rnnfast.convert(fast, report=None)
        x = torch.randint(0, 10, (3, 5))
        for model, optimizer in zip((plain, fast), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    for a, b in zip(plain.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_model_wrapped_for_distributed_training(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.RNN(3, 4)
        plain = copy.deepcopy(model)
        wrapped = rnnfast.convert(nn.parallel.DistributedDataParallel(model), report=None)
        assert type(wrapped.module) is rnnfast.RNN
        x = torch.randn(5, 2, 3)
        for _ in range(2):
            wrapped(x)[0].sum().backward()
            plain(x)[0].sum().backward()
        for a, b in zip(wrapped.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)
    finally:
        torch.distributed.destroy_process_group()


def test_a_compiled_model_runs_the_new_layers():
    model = Tagger()
    x = torch.randint(0, 10, (3, 5))
    compiled = torch.compile(model, backend="eager")

    def operators():
        with torch.profiler.profile() as profile:
            result = compiled(x)
        return result, {event.key for event in profile.key_averages()}

    expected, used = operators()
    assert "rnnfast::recurrence" not in used
    assert rnnfast.convert(compiled, report=None) is compiled
    actual, used = operators()
    torch.testing.assert_close(actual, expected)
    assert "rnnfast::recurrence" in used
    rnnfast.revert(compiled, report=None)
    actual, used = operators()
    assert torch.equal(actual, expected)
    assert "rnnfast::recurrence" not in used


def test_what_is_not_a_module_is_refused():
    with pytest.raises(TypeError, match=r"model: got dict, expected a torch\.nn\.Module"):
        rnnfast.convert({})
