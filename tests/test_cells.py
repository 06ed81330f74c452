"""rnnfast.RNNCell beside torch.nn.RNNCell, and beside a layer of one step."""

import pytest
import torch
from torch import nn

import rnnfast


@pytest.mark.parametrize("with_hx", [True, False])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_same_as_torch(nonlinearity, bias, batched, with_hx):
    cells = []
    for cls in (nn.RNNCell, rnnfast.RNNCell):
        torch.manual_seed(3)
        cells.append(cls(5, 7, bias, nonlinearity, dtype=torch.float64))
    assert repr(cells[0]) == repr(cells[1])
    shape = (4,) if batched else ()
    x = torch.randn(*shape, 5, dtype=torch.float64, requires_grad=True)
    h = torch.randn(*shape, 7, dtype=torch.float64, requires_grad=True) if with_hx else None
    got = []
    for cell in cells:
        y = cell(x, h)
        wanted = [t for t in (x, h, *cell.parameters()) if t is not None]
        got.append([y, *torch.autograd.grad(y.sin().sum(), wanted, allow_unused=True)])
    torch.testing.assert_close([t for t in got[1] if t is not None], [t for t in got[0] if t is not None])


def test_a_cell_steps_as_a_layer_does():
    layer = rnnfast.RNN(3, 4, dtype=torch.float64)
    cell = rnnfast.RNNCell(3, 4, dtype=torch.float64)
    cell.load_state_dict({name.removesuffix("_l0"): p for name, p in layer.state_dict().items()})
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    output, _ = layer(x)
    h = None
    for t in range(6):
        h = cell(x[t], h)
        torch.testing.assert_close(h, output[t])


@pytest.mark.parametrize("missing", ["bias_ih", "bias_hh"])
def test_one_bias_alone(missing):
    theirs, ours = nn.RNNCell(3, 4), rnnfast.RNNCell(3, 4)
    ours.load_state_dict(theirs.state_dict())
    for cell in (theirs, ours):
        setattr(cell, missing, None)
    x, h = torch.randn(2, 3), torch.randn(2, 4)
    torch.testing.assert_close(ours(x, h), theirs(x, h))


def test_gradcheck():
    cell = rnnfast.RNNCell(3, 4, dtype=torch.float64)
    args = (
        torch.randn(2, 3, dtype=torch.float64, requires_grad=True),
        torch.randn(2, 4, dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(cell, args)
    assert torch.autograd.gradgradcheck(cell, args)


def test_autocast():
    cell = rnnfast.RNNCell(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert cell(torch.randn(2, 3), torch.randn(2, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c(torch.randn(2, 3, 5)),
        lambda c: c(torch.randn(2, 6)),
        lambda c: c(torch.randn(2, 5), torch.randn(3, 4)),
        lambda c: c(torch.randn(2, 5), torch.randn(2, 3)),
        lambda c: c(torch.randn(2, 5), torch.randn(1, 2, 4)),
        lambda c: setattr(c, "nonlinearity", "sigmoid") or c(torch.randn(2, 5)),
    ],
)
def test_wrong_input_gets_torchs_error(call):
    raised = []
    for cls in (nn.RNNCell, rnnfast.RNNCell):
        with pytest.raises((ValueError, RuntimeError)) as error:
            call(cls(5, 4))
        raised.append((error.type, str(error.value)))
    assert raised[0] == raised[1]
