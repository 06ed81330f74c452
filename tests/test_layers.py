"""rnnfast's RNN, LSTM and GRU beside torch.nn's: results, gradients, options, state, and life as an nn.Module."""

import copy
import io
import itertools
import pickle

import pytest
import torch
from kinds import KINDS, assert_same_error, make, random_hx, states
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

import rnnfast

# torch's, of its own layer in float32
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def pair(kind, inputs, H, dtype=torch.float64, **options):
    """torch's layer and ours, with the same weights because of the same seed."""
    seed = torch.randint(0, 2**31, ()).item()
    layers = []
    for package in (nn, rnnfast):
        torch.manual_seed(seed)
        layers.append(make(kind, inputs, H, package=package, dtype=dtype, **options))
    return layers


def results(layer, input, hx=None):
    """Outputs and all gradients of a loss that uses every output."""
    packed = isinstance(input, nn.utils.rnn.PackedSequence)
    x = (input.data if packed else input).detach().clone().requires_grad_()
    given = [] if hx is None else [s.detach().clone().requires_grad_() for s in states(hx)]
    hx = tuple(given) if len(given) > 1 else given[0] if given else None
    with torch.random.fork_rng():
        torch.manual_seed(7)  # dropout
        output, last = layer(input._replace(data=x) if packed else x, hx)
    output = output.data if packed else output
    (output.sin().sum() + sum((s * 1.5).cos().sum() for s in states(last))).backward()
    return {
        "output": output.detach(),
        **{name: s.detach() for name, s in zip(("h_n", "c_n"), states(last), strict=False)},
        "x": x.grad,
        **{name: s.grad for name, s in zip(("h_0", "c_0"), given, strict=False)},
        **{name: p.grad for name, p in layer.named_parameters()},
    }


OPTIONS = [
    dict(num_layers=2),
    dict(num_layers=3, dropout=0.4),
    dict(bias=False),
    dict(batch_first=True),
    dict(bidirectional=True),
]
RNN_OPTIONS = [dict(nonlinearity="relu"), *OPTIONS]
PAIRS = [{**a, **b} for a, b in itertools.combinations(RNN_OPTIONS, 2)]
MATRIX = [("RNN", options) for options in ({}, *RNN_OPTIONS, *PAIRS)]
MATRIX += [(kind, options) for kind in KINDS if kind != "RNN" for options in ({}, *OPTIONS)]


@pytest.mark.parametrize("with_hx", [True, False], ids=["hx", ""])
@pytest.mark.parametrize("input_kind", ["padded", "unbatched", "sorted", "unsorted"])
@pytest.mark.parametrize(("kind", "options"), MATRIX, ids=str)
def test_same_results_and_gradients_as_torch(kind, options, input_kind, with_hx):
    theirs, ours = pair(kind, 5, 9, **options)
    for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
        assert torch.equal(a, b), "initial weights differ"
    T, B = 6, 4
    lead = theirs.num_layers * (2 if theirs.bidirectional else 1)
    hx = random_hx(theirs, lead, *([] if input_kind == "unbatched" else [B])) if with_hx else None
    if input_kind == "unbatched":
        input = torch.randn(T, 5, dtype=torch.float64)
    elif input_kind == "padded":
        input = torch.randn(T, B, 5, dtype=torch.float64)
        input = input.transpose(0, 1).contiguous() if theirs.batch_first else input
    else:
        is_sorted = input_kind == "sorted"
        lengths = torch.tensor([6, 4, 4, 1] if is_sorted else [4, 6, 1, 4])
        input = pack_padded_sequence(torch.randn(T, B, 5, dtype=torch.float64), lengths, enforce_sorted=is_sorted)
    torch.testing.assert_close(results(ours, input, hx), results(theirs, input, hx))


def test_packed_output_is_a_packed_sequence_like_the_input(kind):
    layer = make(kind, 3, 4, bidirectional=True)
    input = pack_sequence([torch.randn(n, 3) for n in (2, 5, 3)], enforce_sorted=False)
    output, last = layer(input)
    h_n = states(last)[0]
    P = h_n.size(-1)
    for a, b in zip(output[1:], input[1:], strict=True):
        assert torch.equal(a, b)
    padded, lengths = pad_packed_sequence(output)
    assert lengths.tolist() == [2, 5, 3]
    for b, n in enumerate(lengths.tolist()):  # directions end at opposite ends
        assert torch.equal(h_n[0, b], padded[n - 1, b, :P])
        assert torch.equal(h_n[1, b], padded[0, b, P:])


@pytest.mark.parametrize(
    ("kind", "options"),
    [("RNN", dict(nonlinearity="relu"))]
    + [
        (kind, options)
        for kind in ("RNN", "LSTM", "GRU")
        for options in ({}, dict(num_layers=2, bidirectional=True))
    ],
    ids=str,
)
def test_float32_error_is_no_more_than_half_again_torchs(kind, options):
    """Root mean square over several problems, against torch's layer in float64."""
    squares = {}
    for _ in range(5):
        theirs, ours = pair(kind, 40, 64, dtype=torch.float32, **options)
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
def test_sixteen_bits_accumulate_in_float32(kind, dtype):
    theirs, ours = pair(kind, 30, 200, dtype=dtype)
    x = torch.randn(12, 5, 30).to(dtype)
    exact = results(copy.deepcopy(theirs).double(), x.double())
    mine, torchs = results(ours, x), results(theirs, x)
    for name in {"output", "h_n", "c_n", "x", "weight_ih_l0", "weight_hh_l0", "weight_hr_l0"} & mine.keys():
        assert mine[name].dtype == dtype
        error, peer = [(r[name].double() - exact[name]).square().mean().sqrt() for r in (mine, torchs)]
        assert error <= 1.1 * peer, f"{name}: {error:.2e}, torch {peer:.2e}"


def test_state_dict_goes_both_ways(kind):
    theirs, ours = pair(kind, 3, 4, num_layers=2, bidirectional=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    fresh = make(kind, 3, 4, num_layers=2, bidirectional=True, dtype=torch.float64)
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
def test_copies(kind, copied):
    layer = make(kind, 3, 4, num_layers=2)
    other = copied(layer)
    x = torch.randn(5, 2, 3)
    assert torch.equal(layer(x)[0], other(x)[0])
    with torch.no_grad():
        other.weight_hh_l0.zero_()
    assert not torch.equal(layer(x)[0], other(x)[0])


def test_to_another_dtype_and_back(kind):
    layer = make(kind, 3, 4)
    x = torch.randn(5, 2, 3)
    for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.float32):
        output, last = layer.to(dtype)(x.to(dtype))
        assert {t.dtype for t in (output, *states(last))} == {dtype}
    assert layer.half()(x.half())[0].dtype == torch.float16


@pytest.mark.parametrize("how", ["parametrize", "parametrized weight_norm", "weight_norm"])
def test_reparametrized_weights(kind, how):
    theirs, ours = pair(kind, 3, 4)
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


def test_functional_call_uses_the_weights_given(kind):
    theirs, ours = pair(kind, 3, 4)
    weights = {name: torch.randn_like(p) for name, p in ours.named_parameters()}
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    actual, expected = [torch.func.functional_call(layer, weights, (x,)) for layer in (ours, theirs)]
    torch.testing.assert_close(actual, expected)


def test_attributes_that_code_for_torchs_layers_uses(kind):
    theirs, ours = pair(kind, 3, 4, num_layers=2, batch_first=True, bidirectional=True, dropout=0.1)
    assert repr(ours) == repr(theirs)
    assert [[w.shape for w in ws] for ws in ours.all_weights] == [
        [w.shape for w in ws] for ws in theirs.all_weights
    ]
    assert ours.flatten_parameters() is None
    for name in (
        "mode",
        "nonlinearity",
        "input_size",
        "hidden_size",
        "num_layers",
        "bias",
        "dropout",
        "proj_size",
    ):
        assert getattr(ours, name, None) == getattr(theirs, name, None)
    assert isinstance(ours, nn.RNNBase)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("RNN", (3, 4, 2, "relu", False, True, 0.1, True)),
        ("LSTM", (3, 4, 2, False, True, 0.1, True, 2)),
        ("GRU", (3, 4, 2, False, True, 0.1, True)),
    ],
)
def test_positional_constructor_arguments(name, args):
    theirs, ours = [getattr(package, name)(*args) for package in (nn, rnnfast)]
    assert repr(ours) == repr(theirs)
    assert ours.mode == theirs.mode


def test_dropout_alone_warns_as_torch_does(kind):
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        make(kind, 3, 4, dropout=0.5)


@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({}, lambda m: m(torch.randn(2, 3, 4, 5))),
        ({}, lambda m: m(torch.randn(2, 3, 6))),
        ({}, lambda m: m(torch.randn(2, 6))),
        ({}, lambda m: m(torch.randn(2, 3, 5).double())),
        ({}, lambda m: m(torch.randn(0, 3, 5))),
        ({}, lambda m: m(torch.randn(2, 3, 5), random_hx(m, 1))),
        ({}, lambda m: m(torch.randn(2, 3, 5), random_hx(m, 1, 2))),
        ({}, lambda m: m(torch.randn(2, 3, 5), random_hx(m, 1, 3, wider=1))),
        ({}, lambda m: m(torch.randn(2, 5), random_hx(m, 1, 1))),
        ({}, lambda m: m(torch.randn(2, 5), random_hx(m, 1, wider=1))),
        (dict(num_layers=2), lambda m: m(torch.randn(2, 3, 5), random_hx(m, 1, 3))),
        (dict(bidirectional=True), lambda m: m(torch.randn(2, 3, 5), random_hx(m, 1, 3))),
        (dict(batch_first=True), lambda m: m(torch.randn(2, 0, 5))),
    ],
)
def test_wrong_input_gets_torchs_error(kind, options, call):
    assert_same_error(kind, lambda new: call(new(5, 4, **options)))


@pytest.mark.parametrize("kind", ["RNN", "GRU"])  # torch's LSTM does not look at sizes here
@pytest.mark.parametrize(("units", "states"), [(6, 1), (5, 2)], ids=["input", "hx"])
def test_wrong_packed_input_gets_torchs_error(kind, units, states):
    args = (pack_sequence([torch.randn(2, units)]), torch.randn(1, states, 4))
    assert_same_error(kind, lambda new: new(5, 4)(*args))


@pytest.mark.parametrize("kind", ["LSTM", "LSTM with projection"])
@pytest.mark.parametrize("batch", [(3,), ()], ids=["batched", "unbatched"])
@pytest.mark.parametrize(
    "wrong",
    [
        lambda h, c: (h, c[0]),
        lambda h, c: (h[0], c),
        lambda h, c: (h, torch.cat([c, c])),
        lambda h, c: (torch.cat([h, h]), c),
        lambda h, c: (h, c[..., 1:]),
        lambda h, c: (h[..., 1:], c),
    ],
    ids=["rank of c", "rank of h", "layers of c", "layers of h", "units of c", "units of h"],
)
def test_one_wrong_state_of_an_lstm_gets_torchs_error(kind, batch, wrong):
    x = torch.randn(2, *batch, 5)

    def call(new):
        layer = new(5, 4)
        layer(x, wrong(*random_hx(layer, 1, *batch)))

    assert_same_error(kind, call)


WRONG_ARGUMENTS = [
    ((5, 0), {}),
    ((0, 4), {}),
    ((5.0, 4), {}),
    ((5, 4), dict(dropout=1.5)),
    ((5, 4), dict(bias=1)),
    ((5, 4), dict(batch_first=0)),
    ((5, 4, 0), {}),
]
WRONG_SINCE_2_11 = [((0, 4), {}), ((5, 4), dict(bias=1)), ((5, 4), dict(batch_first=0))]


@pytest.mark.parametrize(
    ("name", "args", "options"),
    [
        *[(name, *wrong) for name in ("RNN", "LSTM", "GRU") for wrong in WRONG_ARGUMENTS],
        ("RNN", (5, 4), dict(nonlinearity="sigmoid")),
        ("RNN", (5, 4), dict(proj_size=2)),
        ("GRU", (5, 4), dict(proj_size=2)),
        ("LSTM", (5, 4), dict(proj_size=4)),
        ("LSTM", (5, 4), dict(proj_size=-1)),
    ],
    ids=str,
)
def test_wrong_constructor_arguments_get_torchs_error(name, args, options):
    if torch.__version__ < (2, 11) and (args, options) in WRONG_SINCE_2_11:
        pytest.skip("torch 2.10 says nothing of it")
    assert_same_error(name, lambda new: new(*args, **options))


def test_empty_batch_as_torch_treats_it(kind):
    theirs, ours = pair(kind, 3, 4, num_layers=2)
    x = torch.randn(5, 0, 3, dtype=torch.float64)
    torch.testing.assert_close(results(ours, x), results(theirs, x))


@pytest.mark.parametrize("with_hx", [True, False])
@pytest.mark.parametrize("input_kind", ["padded", "packed"])
def test_autocast_outputs_have_the_autocast_dtype(kind, input_kind, with_hx):
    layer = make(kind, 3, 4, num_layers=2, bidirectional=True)
    x, hx = torch.randn(5, 2, 3), random_hx(layer, 4, 2) if with_hx else None
    input = pack_padded_sequence(x, [5, 5]) if input_kind == "packed" else x
    exact, exact_last = layer(x, hx)
    with torch.autocast("cpu", torch.bfloat16):
        output, last = layer(input, hx)
    output = pad_packed_sequence(output)[0] if input_kind == "packed" else output
    for actual, expected in zip((output, *states(last)), (exact, *states(exact_last)), strict=True):
        assert actual.dtype == torch.bfloat16
        torch.testing.assert_close(actual.float(), expected, rtol=0, atol=0.05)
    output.float().sum().backward()
    assert {p.grad.dtype for p in layer.parameters()} == {torch.float32}


def test_weights_on_the_meta_device(kind):
    layer = make(kind, 3, 4, bidirectional=True, batch_first=True, device="meta")
    P = layer.proj_size or 4
    output, last = layer(torch.randn(2, 5, 3, device="meta"))
    assert output.shape == (2, 5, 2 * P)
    assert [s.shape for s in states(last)] == [(2, 2, size) for size in (P, 4)][: len(states(last))]
