"""Gradients of states as BPTT notes and clips them, against per-step loops of torch's cells."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import rnnfast
from rnnfast.lab.recording import record_gradients

CELLS = {"RNN": nn.RNNCell, "LSTM": nn.LSTMCell, "GRU": nn.GRUCell}
T, B, INPUT, H = 7, 4, 3, 5


def loop(layer, x, clip=None):
    """A one-directional layer as a loop over its cell: outputs, and the gradient of each h_t once it is known."""
    kind = type(layer).__name__
    cell = CELLS[kind](INPUT, H, dtype=torch.float64)
    cell.load_state_dict({name.removesuffix("_l0"): w for name, w in layer.state_dict().items()})
    arrived = {}

    def bounded(state, note_at=None):
        def hook(gradient):
            if note_at is not None:
                arrived[note_at] = gradient
            return gradient if clip is None else gradient.clamp(-clip, clip)

        state = state.clone()
        state.register_hook(hook)
        return state

    h, c, outputs = x.new_zeros(x.size(1), H), x.new_zeros(x.size(1), H), []
    for t, x_t in enumerate(x):
        if kind == "LSTM":
            gates = x_t @ cell.weight_ih.T + cell.bias_ih + h @ cell.weight_hh.T + cell.bias_hh
            i, f, g, o = gates.chunk(4, 1)
            c = bounded(f.sigmoid() * c + i.sigmoid() * g.tanh())
            h = o.sigmoid() * c.tanh()
        else:
            h = cell(x_t, h)
        h = bounded(h, t)
        outputs.append(h)
    return torch.stack(outputs), arrived, cell


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("kind", CELLS)
def test_norms_and_gradients_are_those_of_a_loop(kind, clip):
    layer = getattr(rnnfast, kind)(INPUT, H, dtype=torch.float64, bptt_clip=clip)
    x, dy = torch.randn(T, B, INPUT, dtype=torch.float64), torch.randn(T, B, H, dtype=torch.float64)
    with record_gradients(layer) as recording:
        layer(x)[0].backward(dy)
    y, arrived, cell = loop(layer, x, clip)
    y.backward(dy)
    expected = torch.stack([arrived[t].norm(dim=1) for t in range(T)]).unsqueeze(2)
    torch.testing.assert_close(recording["l0"], expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(recording.per_step("l0"), expected.norm(dim=1), rtol=1e-12, atol=1e-14)
    for name, weight in cell.named_parameters():
        gradient = layer.get_parameter(f"{name}_l0").grad
        torch.testing.assert_close(gradient, weight.grad, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", CELLS)
def test_plain_torch_notes_and_clips_as_the_kernels_do(kind):
    """What create_graph=True runs, twice differentiable."""
    layer = getattr(rnnfast, kind)(INPUT, H, 2, bidirectional=True, dtype=torch.float64, bptt_clip=0.1)
    x, dy = torch.randn(T, B, INPUT, dtype=torch.float64), torch.randn(T, B, 2 * H, dtype=torch.float64)
    found = []
    for again in (False, True):
        with record_gradients(layer) as recording:
            loss = (layer(x)[0] * dy).sum()
            gradients = torch.autograd.grad(loss, list(layer.parameters()), create_graph=again)
        found.append([*gradients, *(recording[name] for name in recording.names)])
    assert recording.names == ["l0", "l1"]
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-11, atol=1e-13)
    second = torch.autograd.grad(sum(g.square().sum() for g in gradients), list(layer.parameters()))
    assert any(g.abs().max() > 0 for g in second)


def test_clipped_gradients_are_bounded():
    layer = rnnfast.RNN(INPUT, H, bptt_clip=0.01, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_hh_l0.mul_(20)  # explodes
    x = torch.randn(50, B, INPUT, dtype=torch.float64) / 100
    gradients = {}
    for clip in (0.01, None):
        layer.bptt_clip = clip
        layer.zero_grad()
        layer(x)[0][-1].sum().backward()
        gradients[clip] = layer.bias_hh_l0.grad.abs().max()
    assert gradients[0.01] <= 50 * B * 0.01
    assert gradients[None] > 10 * gradients[0.01]


@pytest.mark.parametrize("batch_first", [False, True])
def test_layouts(batch_first):
    """Padded both ways and packed, the same rows have the same norms."""
    layer = rnnfast.GRU(INPUT, H, 2, batch_first=batch_first, dropout=0.5, bidirectional=True, dtype=torch.float64)
    x, lengths = torch.randn(T, B, INPUT, dtype=torch.float64), [T, 5, 2, 1]
    given = x.transpose(0, 1) if batch_first else x
    with record_gradients(layer) as recording:
        torch.manual_seed(0)
        layer(given)[0].sum().backward()
    assert recording["l1"].shape == (T, B, 2)
    layer.eval()
    packed = pack_padded_sequence(given, lengths, batch_first=batch_first)
    with record_gradients(layer) as recording:
        layer(packed)[0].data.sum().backward()
    for row, length in enumerate(lengths):
        own = x[:length, row : row + 1]
        with record_gradients(layer) as alone:
            layer(own.transpose(0, 1) if batch_first else own)[0].sum().backward()
        for name in ("l0", "l1"):
            torch.testing.assert_close(recording[name][:length, row], alone[name][:, 0], rtol=1e-11, atol=1e-13)
            assert not recording[name][length:, row].any()


def test_names_and_calls_of_a_model():
    model = nn.ModuleDict({"encoder": rnnfast.LSTM(INPUT, H), "decoder": rnnfast.RNN(H, H)})
    with record_gradients(model) as recording:
        y, _ = model["encoder"](torch.randn(T, B, INPUT))
        z, _ = model["decoder"](y)
        model["decoder"](y)
        z.sum().backward()
    assert recording.names == ["encoder.l0", "decoder.l0"]
    used, unused = recording.calls("decoder.l0")
    assert torch.isfinite(used).all()
    assert torch.isnan(unused).all(), "no backward pass came by"
    model["encoder"](torch.randn(T, B, INPUT))
    assert len(recording.calls("encoder.l0")) == 1, "the block has ended"
    with pytest.raises(KeyError, match=r"name: got 'rnn', expected one of encoder\.l0, decoder\.l0"):
        recording["rnn"]


def test_nothing_is_recorded_without_gradients():
    layer = rnnfast.RNN(INPUT, H)
    with record_gradients(layer) as recording, torch.no_grad():
        layer(torch.randn(T, B, INPUT))
    assert recording.names == []


def test_drawing():
    pytest.importorskip("matplotlib")
    layer = rnnfast.LSTM(INPUT, H, 2, bidirectional=True)
    with record_gradients(layer) as recording:
        layer(torch.randn(T, B, INPUT))[0].sum().backward()
    axes = recording.draw().axes[0]
    assert [line.get_label() for line in axes.lines] == ["l0", "l0 (reverse)", "l1", "l1 (reverse)"]
    assert all(len(line.get_ydata()) == T for line in axes.lines)


def test_wrong_arguments_get_one_clear_line():
    with (
        pytest.raises(ValueError, match="model: got RNN without an rnnfast layer"),
        record_gradients(nn.RNN(2, 3)),
    ):
        pass
    for kind in CELLS:
        with pytest.raises(ValueError, match="bptt_clip: got -1, expected a positive number or None"):
            getattr(rnnfast, kind)(2, 3, bptt_clip=-1)
    assert "bptt_clip=2.0" in repr(rnnfast.GRU(2, 3, bptt_clip=2))
    assert "bptt_clip" not in repr(rnnfast.GRU(2, 3))
