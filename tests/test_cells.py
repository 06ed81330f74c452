"""rnnfast's RNNCell, LSTMCell and GRUCell beside torch.nn's, and beside a layer of one step."""

import pytest
import torch
from kinds import assert_same_error, states
from torch import nn

import rnnfast

NAMES = ["RNNCell", "LSTMCell", "GRUCell"]
KINDS = [("RNNCell", {}), ("RNNCell", dict(nonlinearity="relu")), ("LSTMCell", {}), ("GRUCell", {})]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def pair(name, *args, **options):
    """torch's cell and ours with the same weights."""
    cells = [getattr(package, name)(*args, **options) for package in (nn, rnnfast)]
    cells[1].load_state_dict(cells[0].state_dict())
    return cells


def random_hx(cell, *shape, **options):
    """A state of `shape`, of an LSTM a pair of them."""
    hx = [torch.randn(*shape, **options) for _ in range(2)]
    return tuple(hx) if isinstance(cell, nn.LSTMCell) else hx[0]


@pytest.mark.parametrize("with_hx", [True, False])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("name", "options"), KINDS, ids=str)
def test_same_as_torch(name, options, bias, batched, with_hx):
    cells = []
    for package in (nn, rnnfast):
        torch.manual_seed(3)
        cells.append(getattr(package, name)(5, 7, bias, **options, dtype=torch.float64))
    assert repr(cells[0]) == repr(cells[1])
    shape = (4,) if batched else ()
    x = torch.randn(*shape, 5, dtype=torch.float64, requires_grad=True)
    hx = random_hx(cells[0], *shape, 7, dtype=torch.float64, requires_grad=True) if with_hx else None
    got = []
    for cell in cells:
        result = cell(x, hx)
        with torch.no_grad():
            torch.testing.assert_close(cell(x, hx), result)
        result = states(result)
        wanted = [t for t in (x, *states(hx), *cell.parameters()) if t is not None]
        loss = sum(t.sin().sum() for t in result)
        got.append([*result, *torch.autograd.grad(loss, wanted, allow_unused=True)])
    torch.testing.assert_close([t for t in got[1] if t is not None], [t for t in got[0] if t is not None])


@pytest.mark.parametrize("recorded", [True, False], ids=["autograd", "no_grad"])
def test_a_cell_steps_as_a_layer_does(name, recorded):
    layer = getattr(rnnfast, name.removesuffix("Cell"))(3, 4, dtype=torch.float64)
    cell = getattr(rnnfast, name)(3, 4, dtype=torch.float64)
    cell.load_state_dict({key.removesuffix("_l0"): p for key, p in layer.state_dict().items()})
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    with torch.set_grad_enabled(recorded):
        output, last = layer(x)
        hx = None
        for t in range(6):
            hx = cell(x[t], hx)
            torch.testing.assert_close(states(hx)[0], output[t])
        torch.testing.assert_close(states(hx), [s[0] for s in states(last)])


@pytest.mark.parametrize("recorded", [True, False], ids=["autograd", "no_grad"])
@pytest.mark.parametrize("missing", ["bias_ih", "bias_hh"])
def test_one_bias_alone(name, missing, recorded):
    theirs, ours = pair(name, 3, 4)
    for cell in (theirs, ours):
        setattr(cell, missing, None)
    x, hx = torch.randn(2, 3), random_hx(ours, 2, 4)
    with torch.set_grad_enabled(recorded):
        torch.testing.assert_close(ours(x, hx), theirs(x, hx))


def test_gradcheck(name):
    cell = getattr(rnnfast, name)(3, 4, dtype=torch.float64)
    hx = random_hx(cell, 2, 4, dtype=torch.float64, requires_grad=True)
    args = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True), *states(hx))

    def function(x, *hx):
        return cell(x, hx if len(hx) > 1 else hx[0])

    assert torch.autograd.gradcheck(function, args)
    assert torch.autograd.gradgradcheck(function, args)


@pytest.mark.parametrize("recorded", [True, False], ids=["autograd", "no_grad"])
def test_autocast(name, recorded):
    cell = getattr(rnnfast, name)(3, 4)
    x, hx = torch.randn(2, 3), random_hx(cell, 2, 4)
    exact = states(cell(x, hx))
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(recorded):
        result = states(cell(x, hx))
    assert {t.dtype for t in result} == {torch.bfloat16}
    torch.testing.assert_close([t.float() for t in result], exact, rtol=0, atol=0.05)


@pytest.mark.parametrize("recorded", [True, False], ids=["autograd", "no_grad"])
@pytest.mark.parametrize(
    "call",
    [
        lambda c: c(torch.randn(2, 3, 5)),
        lambda c: c(torch.randn(2, 6)),
        lambda c: c(torch.randn(6)),
        lambda c: c(torch.randn(2, 5), random_hx(c, 3, 4)),
        lambda c: c(torch.randn(2, 5), random_hx(c, 2, 3)),
        lambda c: c(torch.randn(5), random_hx(c, 3)),
        lambda c: c(torch.randn(2, 5), random_hx(c, 1, 2, 4)),
    ],
)
def test_wrong_input_gets_torchs_error(name, call, recorded):
    with torch.set_grad_enabled(recorded):
        assert_same_error(name, lambda new: call(new(5, 4)))


@pytest.mark.parametrize("shape", [(3, 4), (2, 3), (1, 2, 4)], ids=["batch", "units", "rank"])
@pytest.mark.parametrize("which", [0, 1], ids=["h", "c"])
def test_one_wrong_state_of_an_lstm_gets_torchs_error(which, shape):
    hx = [torch.randn(2, 4), torch.randn(2, 4)]
    hx[which] = torch.randn(shape)
    assert_same_error("LSTMCell", lambda new: new(5, 4)(torch.randn(2, 5), tuple(hx)))


def test_an_unknown_nonlinearity_gets_torchs_error():
    def call(new):
        cell = new(5, 4)
        cell.nonlinearity = "sigmoid"
        cell(torch.randn(2, 5))

    assert_same_error("RNNCell", call)
