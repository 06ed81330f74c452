"""What is said of torch.nn's layers where no other test says it: dtypes under autocast, rows without steps, nested
tensors, profiles; beside ours.
"""

import warnings

import pytest
import torch
from kinds import make, states
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.profiler import ProfilerActivity, profile

import rnnfast

NAMES = ["RNN", "LSTM", "GRU"]


@pytest.mark.contrast
def test_autocast_has_one_rule_for_all_kinds_and_torch_has_several():
    def dtypes(package):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return {make(name, 3, 4, package=package)(torch.randn(5, 2, 3))[0].dtype for name in NAMES}

    assert dtypes(rnnfast) == {torch.bfloat16}
    assert dtypes(nn) == {torch.bfloat16, torch.float32}


def test_autocast_leaves_alone_what_it_should(kind):
    x = torch.randn(5, 2, 3)
    for given, inside, expected in (
        (torch.float64, torch.bfloat16, torch.float64),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float16, torch.float16),
        (torch.float16, torch.bfloat16, torch.bfloat16),
    ):
        layer = make(kind, 3, 4, dtype=given)
        with torch.autocast("cpu", dtype=inside):
            output, last = layer(x.to(given))
            with torch.autocast("cpu", enabled=False):
                assert layer(x.to(given))[0].dtype == given
        assert {t.dtype for t in (output, *states(last))} == {expected}


@pytest.mark.contrast
@pytest.mark.parametrize("name", NAMES)
def test_rows_without_steps(name):
    x, lengths = torch.randn(5, 3, 3), torch.tensor([5, 0, 2])
    with pytest.raises(RuntimeError, match="greater than 0"):
        make(name, 3, 4, package=nn)(pack_padded_sequence(x, lengths, enforce_sorted=False))
    output, _ = make(name, 3, 4)(x, lengths=lengths)
    assert not output[:, 1].any()


@pytest.mark.contrast
@pytest.mark.parametrize("name", NAMES)
def test_nested_tensors(name):
    rows = torch.nested.nested_tensor([torch.randn(5, 3), torch.randn(2, 3)], layout=torch.jagged)
    with pytest.raises((RuntimeError, NotImplementedError, ValueError)):
        make(name, 3, 4, package=nn, batch_first=True)(rows)
    output, _ = make(name, 3, 4, batch_first=True)(rows)
    assert output.is_nested


@pytest.mark.contrast
@pytest.mark.parametrize("name", ["RNN", "GRU"])
def test_a_profile_of_torchs_layers_has_operators_of_each_step(name):
    found, T = {}, 9
    for package in (nn, rnnfast):
        layer, x = make(name, 3, 4, package=package), torch.randn(T, 2, 3)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the profiler's own
            with profile(activities=[ProfilerActivity.CPU]) as seen:
                layer(x)
        found[package] = sum(event.count for event in seen.key_averages())
    assert found[nn] > T > found[rnnfast]


def test_summaries_that_look_for_types():
    """As the README's table of patterns has it: rnnfast's classes beside torch's."""
    model = nn.Sequential(nn.LSTM(3, 4), rnnfast.LSTM(3, 4), rnnfast.GRU(3, 4))
    recurrent = {nn.LSTM, nn.GRU, rnnfast.LSTM, rnnfast.GRU}
    assert [type(m) in recurrent for m in model] == [True] * 3


def test_an_output_that_is_added_to(kind):
    """``output = output + x``, since the output is kept for the backward pass."""
    layer, x = make(kind, 4, 4), torch.randn(5, 2, 4)
    output, _ = layer(x)
    output = output + output.detach()
    output.sum().backward()
    assert layer.weight_hh_l0.grad.isfinite().all()


def test_quantize_dynamic_leaves_ours_alone_and_quantize_weights_does_not():
    model = nn.Sequential(rnnfast.LSTM(3, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        left = torch.ao.quantization.quantize_dynamic(model, {nn.LSTM})
    assert type(left[0]) is rnnfast.LSTM
    assert type(rnnfast.quantize_weights(model)[0]) is not rnnfast.LSTM


@pytest.mark.parametrize("with_hx", [True, False])
def test_packed_sequences_on_the_meta_device(kind, with_hx):
    layer = make(kind, 3, 4, bidirectional=True)
    packed = nn.utils.rnn.pack_sequence([torch.randn(n, 3) for n in (4, 2, 1)])
    expected, last = layer(packed)
    hx = None
    if with_hx:
        zeros = [torch.zeros_like(s).to("meta") for s in states(last)]
        hx = tuple(zeros) if layer.mode == "LSTM" else zeros[0]
    output, found = layer.to("meta")(packed._replace(data=packed.data.to("meta")), hx)
    assert output.data.shape == expected.data.shape
    assert [s.shape for s in states(found)] == [s.shape for s in states(last)]
