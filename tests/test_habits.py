"""What people do with a module of torch's they do with ours: checkpoints, profiles, copies, loops over modules."""

import copy
import re
import warnings
from pathlib import Path

import pytest
import torch
from kinds import make, random_hx, states
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

import rnnfast

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpoints(kind, reentrant):
    layer = make(kind, 3, 4, num_layers=2, dropout=0.5)
    x = torch.randn(5, 2, 3, requires_grad=True)
    found = []

    def results(x):  # not nested, where reentrant checkpoints lose gradients
        output, last = layer(x)
        return output, *states(last)

    for call in (results, lambda x: checkpoint(results, x, use_reentrant=reentrant)):
        torch.manual_seed(0)
        layer.zero_grad()
        x.grad = None
        sum(t.sin().sum() for t in call(x)).backward()
        found.append([x.grad.clone(), *(p.grad.clone() for p in layer.parameters())])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_profile_names_each_layer_and_direction(kind, bidirectional):
    layer = make(kind, 3, 4, num_layers=2, bidirectional=bidirectional)
    x = torch.randn(5, 2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the profiler's own
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            layer(x)[0].sum().backward()
    counts = {event.key: event.count for event in seen.key_averages()}
    directions = "forward and reverse" if bidirectional else "forward"
    for k in range(2):
        assert counts[f"rnnfast.{type(layer).__name__} layer {k}, {directions}"] == 1
    assert counts["rnnfast::recurrence"] == counts["rnnfast::recurrence_bptt"] == counts["RecurrenceBackward"] == 2


def test_to_the_meta_device_and_back(kind):
    layer = make(kind, 3, 4, num_layers=2, bidirectional=True)
    twin = copy.deepcopy(layer).to("meta")
    hx = random_hx(layer, 4, 2)
    x, on_meta = torch.randn(5, 2, 3), torch.empty(5, 2, 3, device="meta", requires_grad=True)
    output, last = twin(on_meta, tuple(s.to("meta") for s in hx) if isinstance(hx, tuple) else hx.to("meta"))
    expected, expected_last = layer(x, hx)
    assert [t.shape for t in (output, *states(last))] == [t.shape for t in (expected, *states(expected_last))]
    output.sum().backward()
    assert all(p.grad.is_meta and p.grad.shape == p.shape for p in twin.parameters())
    assert on_meta.grad.shape == x.shape
    twin.to_empty(device="cpu").load_state_dict(layer.state_dict())
    torch.testing.assert_close(twin(x, hx)[0], expected)


def test_hooks(kind):
    layer, called = make(kind, 3, 4), []
    layer.register_forward_pre_hook(lambda module, args: called.append("before"))
    layer.register_forward_hook(lambda module, args, results: called.append("after"))
    layer.register_full_backward_hook(lambda module, to, by: called.append("backward"))
    layer.weight_hh_l0.register_post_accumulate_grad_hook(lambda p: called.append("gradient"))
    layer(torch.randn(5, 2, 3, requires_grad=True))[0].sum().backward()
    assert called[:2] == ["before", "after"]
    assert sorted(called[2:]) == ["backward", "gradient"]


def test_saved_tensors_may_go_elsewhere_meanwhile(kind):
    """As torch.autograd.graph.save_on_cpu has them; each is asked for once."""
    layer, x = make(kind, 3, 4), torch.randn(5, 2, 3)
    expected = torch.autograd.grad(layer(x)[0].sin().sum(), list(layer.parameters()))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(force=True).copy(), torch.from_numpy):
        loss = layer(x)[0].sin().sum()
    torch.testing.assert_close(torch.autograd.grad(loss, list(layer.parameters())), expected)


def initialized(model):
    """A loop as people write it, with the replacement that the README gives."""
    for module in model.modules():
        if isinstance(module, nn.RNNBase) and module.mode == "LSTM":
            for name, p in module.named_parameters():
                if "bias" in name:
                    nn.init.constant_(p, 1.0)
    return model


@pytest.mark.parametrize("package", [nn, rnnfast])
def test_loops_that_look_for_a_kind_of_layer(package):
    model = initialized(nn.Sequential(package.LSTM(3, 4), package.GRU(3, 4)))
    assert (model[0].bias_hh_l0 == 1).all()
    assert not (model[1].bias_hh_l0 == 1).any()


def test_symbolic_tracing_takes_a_layer_as_a_leaf():
    """torch.fx's own test is for modules of torch.nn."""

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return isinstance(module, nn.RNNBase) or super().is_leaf_module(module, name)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = rnnfast.GRU(3, 4)

        def forward(self, x):
            return self.rnn(x)[0].relu()

    model = Model()
    traced = torch.fx.GraphModule(model, Tracer().trace(model))
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(traced(x), model(x))


def test_the_readmes_examples_of_these_run():
    section = README.read_text().partition("## At home in PyTorch")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, flags=re.S)
    assert blocks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in blocks:
            exec(compile(block, "README.md", "exec"), {})
