"""Skip connections across layers and time, and both directions, against loops and layers of torch.nn."""

import pytest
import torch
from torch import nn

from rnnfast.models import CELLS, BidirectionalEncoder, Dilated, ResidualStack

CELL_CLASSES = {"rnn": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def random_state(cell, *shape):
    return (random(*shape), random(*shape)) if cell == "lstm" else random(*shape)


def parts(state):
    return list(state) if isinstance(state, tuple) else [state]


def cell_of(cell, layer):
    """torch.nn's cell with the weights of a layer."""
    made = CELL_CLASSES[cell](layer.input_size, layer.hidden_size).double()
    made.load_state_dict({name.removesuffix("_l0"): w for name, w in layer.state_dict().items()})
    return made


@pytest.mark.parametrize("given", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize(("T", "k"), [(12, 3), (11, 3), (13, 3), (2, 5), (1, 1), (7, 7), (9, 1)])
@pytest.mark.parametrize("cell", CELLS)
def test_each_step_sees_the_state_k_before(cell, T, k, given):
    B, H = 3, 6
    model = Dilated(4, H, k, cell=cell).double()
    x = random(B, T, 4).requires_grad_()
    hx = random_state(cell, 1, k * B, H) if given else None

    step = cell_of(cell, model.rnn)
    zero = random_state(cell, 1, k * B, H)
    zero = tuple(s * 0 for s in zero) if cell == "lstm" else zero * 0
    # queue[0] is the state k steps before the step to come.
    queue = list(zip(*[s[0].split(B) for s in parts(hx if given else zero)], strict=True))
    outputs = []
    for t in range(T):
        seen = queue.pop(0)
        queue.append(parts(step(x[:, t], tuple(seen) if cell == "lstm" else seen[0])))
        outputs.append(queue[-1][0])
    expected = torch.stack(outputs, 1)

    got, last = model(x, hx)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    for part, *steps in zip(parts(last), *queue, strict=True):
        torch.testing.assert_close(part[0], torch.cat(steps), rtol=0, atol=1e-12)
    weights = random(B, T, H)
    gradients = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (got, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_dilated_goes_on_where_it_stopped(cell):
    model = Dilated(4, 6, 4, cell=cell, num_layers=2).double()
    x = random(3, 17, 4)
    whole, expected = model(x)
    outputs, state = [], None
    for piece in x.split([1, 6, 2, 8], 1):
        output, state = model(piece, state)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(state, expected, rtol=0, atol=1e-12)


def test_dilated_runs_a_kth_of_the_steps():
    model = Dilated(4, 6, 8)
    shapes = []
    model.rnn.register_forward_hook(lambda module, args, result: shapes.append(tuple(args[0].shape)))
    model(torch.randn(3, 80, 4))
    assert shapes == [(24, 10, 4)]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("input_size", [4, 12])
@pytest.mark.parametrize("cell", CELLS)
def test_each_layer_adds_to_what_it_is_given(cell, input_size, bidirectional):
    H = 12 // (2 if bidirectional else 1)
    model = ResidualStack(input_size, H, 3, cell=cell, bidirectional=bidirectional).double()
    D = 2 if bidirectional else 1
    x, hx = random(3, 7, input_size), random_state(cell, 3 * D, 3, H)
    expected, last = x, []
    for i, rnn in enumerate(model.rnns):
        plain = getattr(nn, cell.upper())(rnn.input_size, H, batch_first=True, bidirectional=bidirectional)
        plain.double().load_state_dict(rnn.state_dict())
        own = [s[i * D : (i + 1) * D] for s in parts(hx)]
        h, state = plain(expected, tuple(own) if cell == "lstm" else own[0])
        expected = h if i == 0 and input_size == 4 else expected + h
        last.append(parts(state))
    got, got_last = model(x, hx)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    for part, *layers in zip(parts(got_last), *last, strict=True):
        torch.testing.assert_close(part, torch.cat(layers), rtol=0, atol=1e-12)


def test_dropout_between_the_layers_of_a_stack():
    torch.manual_seed(0)
    model = ResidualStack(6, 6, 3, dropout=0.5).double()
    x = random(3, 7, 6)
    assert not torch.equal(model(x)[0], model(x)[0])
    assert torch.equal(model.eval()(x)[0], model(x)[0])
    one = ResidualStack(6, 6, 1, dropout=0.5).double()  # nothing to drop between
    assert torch.equal(one(x)[0], one(x)[0])


@pytest.mark.parametrize("cell", CELLS)
def test_both_directions_are_two_recurrences_one_of_them_flipped(cell):
    model = BidirectionalEncoder(4, 6, cell=cell).double()
    x = random(3, 7, 4)
    one_way = [getattr(nn, cell.upper())(4, 6, batch_first=True).double() for _ in range(2)]
    weights = model.rnn.state_dict()
    one_way[0].load_state_dict({name: w for name, w in weights.items() if not name.endswith("_reverse")})
    one_way[1].load_state_dict(
        {name.removesuffix("_reverse"): w for name, w in weights.items() if name.endswith("_reverse")}
    )
    ahead, ahead_last = one_way[0](x)
    back, back_last = one_way[1](x.flip(1))
    outputs, last = model(x)
    torch.testing.assert_close(outputs, torch.cat([ahead, back.flip(1)], 2), rtol=0, atol=1e-12)
    for part, a, b in zip(parts(last), parts(ahead_last), parts(back_last), strict=True):
        torch.testing.assert_close(part, torch.cat([a, b]), rtol=0, atol=1e-12)
