"""rnnfast.RNN beside torch.nn.RNN: results, gradients, options, state, and life as an nn.Module."""

import copy
import io
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

import rnnfast


def pair(inputs, H, dtype=torch.float64, **options):
    """torch's layer and ours, with the same weights because of the same seed."""
    seed = torch.randint(0, 2**31, ()).item()
    layers = []
    for cls in (nn.RNN, rnnfast.RNN):
        torch.manual_seed(seed)
        layers.append(cls(inputs, H, dtype=dtype, **options))
    return layers


def results(layer, input, hx=None):
    """Outputs and all gradients of a loss that uses every output."""
    packed = isinstance(input, nn.utils.rnn.PackedSequence)
    x = (input.data if packed else input).detach().clone().requires_grad_()
    hx = None if hx is None else hx.detach().clone().requires_grad_()
    torch.manual_seed(7)  # dropout
    output, h_n = layer(input._replace(data=x) if packed else x, hx)
    output = output.data if packed else output
    (output.sin().sum() + (h_n * 1.5).cos().sum()).backward()
    named = {name: p.grad for name, p in layer.named_parameters()}
    return {
        "output": output.detach(),
        "h_n": h_n.detach(),
        "x": x.grad,
        "hx": None if hx is None else hx.grad,
        **named,
    }


OPTIONS = [
    dict(nonlinearity="relu"),
    dict(num_layers=2),
    dict(num_layers=3, dropout=0.4),
    dict(bias=False),
    dict(batch_first=True),
    dict(bidirectional=True),
]
PAIRS = [{}, *OPTIONS, *[{**a, **b} for a, b in itertools.combinations(OPTIONS, 2)]]


@pytest.mark.parametrize("with_hx", [True, False], ids=["hx", ""])
@pytest.mark.parametrize("kind", ["padded", "unbatched", "sorted", "unsorted"])
@pytest.mark.parametrize("options", PAIRS, ids=str)
def test_same_results_and_gradients_as_torch(options, kind, with_hx):
    theirs, ours = pair(5, 9, **options)
    for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
        assert torch.equal(a, b), "initial weights differ"
    T, B = 6, 4
    states = theirs.num_layers * (2 if theirs.bidirectional else 1)
    hx = torch.randn(states, B, 9, dtype=torch.float64) if with_hx else None
    if kind == "unbatched":
        input = torch.randn(T, 5, dtype=torch.float64)
        hx = None if hx is None else hx[:, 0]
    elif kind == "padded":
        input = torch.randn(T, B, 5, dtype=torch.float64)
        input = input.transpose(0, 1).contiguous() if theirs.batch_first else input
    else:
        lengths = torch.tensor([6, 4, 4, 1] if kind == "sorted" else [4, 6, 1, 4])
        input = pack_padded_sequence(
            torch.randn(T, B, 5, dtype=torch.float64), lengths, enforce_sorted=kind == "sorted"
        )
    torch.testing.assert_close(results(ours, input, hx), results(theirs, input, hx))


def test_packed_output_is_a_packed_sequence_like_the_input():
    layer = rnnfast.RNN(3, 4, bidirectional=True)
    input = pack_sequence([torch.randn(n, 3) for n in (2, 5, 3)], enforce_sorted=False)
    output, h_n = layer(input)
    for a, b in zip(output[1:], input[1:], strict=True):
        assert torch.equal(a, b)
    padded, lengths = pad_packed_sequence(output)
    assert lengths.tolist() == [2, 5, 3]
    for b, n in enumerate(lengths.tolist()):  # directions end at opposite ends
        assert torch.equal(h_n[0, b], padded[n - 1, b, :4])
        assert torch.equal(h_n[1, b], padded[0, b, 4:])


@pytest.mark.parametrize(
    "options", [{}, dict(nonlinearity="relu"), dict(num_layers=2, bidirectional=True)], ids=str
)
def test_float32_error_is_no_more_than_half_again_torchs(options):
    """Root mean square over several problems, against torch's layer in float64."""
    squares = {}
    for _ in range(5):
        theirs, ours = pair(40, 64, dtype=torch.float32, **options)
        x = torch.randn(60, 16, 40)
        exact = results(copy.deepcopy(theirs).double(), x.double())
        for who, layer in (("theirs", theirs), ("ours", ours)):
            for name, value in results(layer, x).items():
                if value is not None:
                    square = (value.double() - exact[name]).square().mean().item()
                    squares[name, who] = squares.get((name, who), 0.0) + square
    for name in {name for name, _ in squares}:
        ratio = (squares[name, "ours"] / squares[name, "theirs"]) ** 0.5
        assert ratio <= 1.5, f"{name}: {ratio:.2f} of torch's error"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bits_accumulate_in_float32(dtype):
    theirs, ours = pair(30, 200, dtype=dtype)
    x = torch.randn(12, 5, 30).to(dtype)
    exact = results(copy.deepcopy(theirs).double(), x.double())
    mine, torchs = results(ours, x), results(theirs, x)
    for name in ("output", "h_n", "x", "weight_ih_l0", "weight_hh_l0"):
        assert mine[name].dtype == dtype
        error, peer = [(r[name].double() - exact[name]).square().mean().sqrt() for r in (mine, torchs)]
        assert error <= 1.1 * peer, f"{name}: {error:.2e}, torch {peer:.2e}"


def test_state_dict_goes_both_ways():
    theirs, ours = pair(3, 4, num_layers=2, bidirectional=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    fresh = rnnfast.RNN(3, 4, num_layers=2, bidirectional=True, dtype=torch.float64)
    fresh.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(fresh.state_dict())
    x = torch.randn(2, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(fresh(x), theirs(x))


def through_torch_save(layer):
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer)), through_torch_save],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies(copied):
    layer = rnnfast.RNN(3, 4, num_layers=2)
    other = copied(layer)
    x = torch.randn(5, 2, 3)
    assert torch.equal(layer(x)[0], other(x)[0])
    with torch.no_grad():
        other.weight_hh_l0.zero_()
    assert not torch.equal(layer(x)[0], other(x)[0])


def test_to_another_dtype_and_back():
    layer = rnnfast.RNN(3, 4)
    x = torch.randn(5, 2, 3)
    for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.float32):
        assert layer.to(dtype)(x.to(dtype))[0].dtype == dtype
    assert layer.half()(x.half())[1].dtype == torch.float16


@pytest.mark.parametrize("how", ["parametrize", "parametrized weight_norm", "weight_norm"])
def test_reparametrized_weights(how):
    theirs, ours = pair(3, 4)
    for layer in (theirs, ours):
        if how == "parametrize":
            nn.utils.parametrize.register_parametrization(layer, "weight_hh_l0", nn.Tanh())
        elif how == "weight_norm":
            with pytest.warns(FutureWarning, match="weight_norm"):
                nn.utils.weight_norm(layer, "weight_hh_l0")
        else:
            nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    actual, expected = results(ours, x), results(theirs, x)
    assert len(actual) > 5
    torch.testing.assert_close(actual, expected)
    with torch.no_grad():  # a change of the underlying weight is seen by the next call
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.mul_(0.5)
            q.mul_(0.5)
    torch.testing.assert_close(ours(x), theirs(x))


def test_functional_call_uses_the_weights_given():
    theirs, ours = pair(3, 4)
    weights = {name: torch.randn_like(p) for name, p in ours.named_parameters()}
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    actual, expected = [torch.func.functional_call(layer, weights, (x,)) for layer in (ours, theirs)]
    torch.testing.assert_close(actual, expected)


def test_attributes_that_code_for_torchs_layers_uses():
    theirs, ours = pair(3, 4, num_layers=2, batch_first=True, bidirectional=True, dropout=0.1)
    assert repr(ours) == repr(theirs)
    assert [[w.shape for w in ws] for ws in ours.all_weights] == [
        [w.shape for w in ws] for ws in theirs.all_weights
    ]
    assert ours.flatten_parameters() is None
    for name in ("mode", "nonlinearity", "input_size", "hidden_size", "num_layers", "bias", "dropout"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert isinstance(ours, nn.RNNBase)


def test_positional_constructor_arguments():
    args = (3, 4, 2, "relu", False, True, 0.1, True)
    assert repr(rnnfast.RNN(*args)) == repr(nn.RNN(*args))
    assert rnnfast.RNN(*args).nonlinearity == "relu"


def test_dropout_alone_warns_as_torch_does():
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        rnnfast.RNN(3, 4, dropout=0.5)


@pytest.mark.parametrize(
    ("constructor", "call"),
    [
        ({}, lambda m: m(torch.randn(2, 3, 4, 5))),
        ({}, lambda m: m(torch.randn(2, 3, 6))),
        ({}, lambda m: m(torch.randn(2, 3, 5).double())),
        ({}, lambda m: m(torch.randn(0, 3, 5))),
        ({}, lambda m: m(torch.randn(2, 3, 5), torch.randn(1, 4))),
        ({}, lambda m: m(torch.randn(2, 3, 5), torch.randn(1, 2, 4))),
        ({}, lambda m: m(torch.randn(2, 5), torch.randn(1, 1, 4))),
        (dict(num_layers=2), lambda m: m(torch.randn(2, 3, 5), torch.randn(1, 3, 4))),
        (dict(batch_first=True), lambda m: m(torch.randn(2, 0, 5))),
        ({}, lambda m: m(pack_sequence([torch.randn(2, 6)]))),
        ({}, lambda m: m(pack_sequence([torch.randn(2, 5)]), torch.randn(1, 2, 4))),
    ],
)
def test_wrong_input_gets_torchs_error(constructor, call):
    raised = []
    for cls in (nn.RNN, rnnfast.RNN):
        with pytest.raises((ValueError, RuntimeError)) as error:
            call(cls(5, 4, **constructor))
        raised.append((error.type, str(error.value)))
    assert raised[0] == raised[1]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((5, 0), {}),
        ((0, 4), {}),
        ((5.0, 4), {}),
        ((5, 4), dict(nonlinearity="sigmoid")),
        ((5, 4), dict(proj_size=2)),
        ((5, 4), dict(dropout=1.5)),
        ((5, 4), dict(bias=1)),
        ((5, 4), dict(batch_first=0)),
        ((5, 4, 0), {}),
    ],
)
def test_wrong_constructor_arguments_get_torchs_error(args, kwargs):
    raised = []
    for cls in (nn.RNN, rnnfast.RNN):
        with pytest.raises((ValueError, TypeError)) as error:
            cls(*args, **kwargs)
        raised.append((error.type, str(error.value)))
    assert raised[0] == raised[1]


def test_empty_batch_as_torch_treats_it():
    theirs, ours = pair(3, 4, num_layers=2)
    x = torch.randn(5, 0, 3, dtype=torch.float64)
    torch.testing.assert_close(results(ours, x), results(theirs, x))


@pytest.mark.parametrize("hx", [True, False])
def test_autocast_outputs_have_the_autocast_dtype(hx):
    layer = rnnfast.RNN(3, 4, num_layers=2, bidirectional=True)
    x, h = torch.randn(5, 2, 3), torch.randn(4, 2, 4) if hx else None
    exact, _ = layer(x, h)
    with torch.autocast("cpu", torch.bfloat16):
        output, h_n = layer(x, h)
        packed, _ = layer(pack_padded_sequence(x, [5, 5]), h)
    assert output.dtype == h_n.dtype == packed.data.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), exact, rtol=0, atol=0.05)
    output.float().sum().backward()
    assert layer.weight_hh_l0.grad.dtype == torch.float32


def test_weights_on_the_meta_device():
    layer = rnnfast.RNN(3, 4, bidirectional=True, batch_first=True, device="meta")
    output, h_n = layer(torch.randn(2, 5, 3, device="meta"))
    assert output.shape == (2, 5, 8)
    assert h_n.shape == (2, 2, 4)
