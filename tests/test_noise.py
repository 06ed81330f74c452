"""Noise on states: its bits, its rates, and what it depends on."""

import math

import pytest
import torch
from kinds import states
from noisy import ALL_STEPS, drawn, happens, loop, on_average, philox

import rnnfast
from rnnfast import _noise
from rnnfast._noise import draw_seed

op = torch.ops.rnnfast
NOISY = {
    "RNN": ("RNN", {}),
    "RNN of relu": ("RNN", dict(nonlinearity="relu")),
    "LSTM": ("LSTM", {}),
    "LSTM with projection": ("LSTM", dict(proj_size=3)),
    "LSTM with layer_norm": ("LSTM", dict(layer_norm=True)),
    "GRU": ("GRU", {}),
}
RATES = dict(recurrent_dropout=0.4, zoneout=0.3)


@pytest.fixture(autouse=True)
def _one_thread():
    """All that is run is small; plans may ask for more."""
    torch.set_num_threads(1)


def make(kind, *args, **options):
    name, own = NOISY[kind]
    layer = getattr(rnnfast, name)(*args, **{"dtype": torch.float64, **own, **options})
    for parameter in layer.parameters():  # gains and biases of 1 and 0 would hide mistakes
        torch.nn.init.normal_(parameter, 0.1, 0.5)
    return layer


def results(layer, x, hx=None, seed=0):
    torch.manual_seed(seed)
    output, last = layer(x, hx)
    return [output, *states(last)]


def signed(word):
    return word - (1 << 64) if word >= 1 << 63 else word


# Of the authors' library, Random123.
KNOWN = [
    ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter, key, words):
    expected = [int(word, 16) for word in words.split()]
    assert philox(counter, key) == expected
    found = _noise.philox(torch.tensor(signed(key[1] << 32 | key[0])), [torch.tensor(c) for c in counter])
    assert [int(word) for word in found] == expected


SEEDS = [(0, 0), (-1, 5), (0x0123456789ABCDEF, 0xFFFFFFFE), (-(1 << 63), 1 << 33)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("seed", SEEDS, ids=str)
def test_kernels_draw_the_same_bits(seed, dtype):
    """Without W_hh a relu's states are masks."""
    T, B, G, H, p, q = 3, 4, 2, 37, 0.375, 0.3
    gates = torch.arange(1.0, T + 1).view(T, 1, 1, 1).expand(T, B, G, H).to(dtype).contiguous()
    args = (gates, None, torch.zeros(G, H, H, dtype=dtype), None, None, None, None, None, "elman_relu")
    seeds = torch.tensor(seed)
    dropped = op.recurrence(*args, seed=seeds, noise=(p, 0.0, 0.0))[0]
    zoned = op.recurrence(*args, seed=seeds, noise=(0.0, q, 0.0))[0]
    for g in range(G):
        group = g + (seed[1] >> 32)
        factor = (~happens(seed, p, 0, B, H, ALL_STEPS, group)).to(dtype) / (1 - p)
        before = torch.zeros(B, H, dtype=dtype)
        for t in range(T):
            assert torch.equal(dropped[t, :, g], (factor * (t + 1)).to(dtype))
            before = torch.where(happens(seed, q, 0, B, H, t + seed[1], group), before, t + 1)
            assert torch.equal(zoned[t, :, g], before)


def test_words_of_h_and_c_are_different_ones():
    T, B, H, p = 4, 3, 21, 0.5
    gates = torch.full((T, B, 1, 4 * H), 50.0)  # i, o and g are 1
    gates[..., H : 2 * H] = -50.0  # f is 0: c is 1 from the first step on that it is not zoned
    args = (gates, None, torch.zeros(1, 4 * H, H), None, None, None, None, None, "lstm")
    seed = (12345, 0)
    y, _, c_n, *_ = op.recurrence(*args, seed=torch.tensor(seed), noise=(0.0, 0.0, p))
    kept = torch.stack([happens(seed, p, 1, B, H, t) for t in range(T)]).all(0)
    assert torch.equal(c_n[0], (~kept).float())
    torch.testing.assert_close(y, torch.full_like(y, math.tanh(1)))  # h has that of the candidate
    y, *_ = op.recurrence(*args, seed=torch.tensor(seed), noise=(0.0, p, 0.0))
    kept = torch.stack([happens(seed, p, 0, B, H, t) for t in range(T)]).all(0)
    torch.testing.assert_close(y[-1, :, 0], (~kept) * math.tanh(1))


@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize("noise", [dict(recurrent_dropout=0.4), dict(zoneout=0.3), RATES], ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", NOISY)
def test_the_papers_formulas(kind, bidirectional, noise, mode):
    """Values and gradients, each direction with masks of its own."""
    T, B, H = 5, 3, 6
    layer = make(kind, 2, H, bidirectional=bidirectional, **noise).train(mode == "training")
    if layer.mode == "LSTM" and "zoneout" in noise:
        layer.zoneout = (0.3, 0.6)
    rates, P = layer._rates(layer.training), layer.proj_size or H
    directions = 2 if bidirectional else 1
    x = torch.randn(T, B, 2, dtype=torch.float64, requires_grad=True)
    sizes = (P, H) if layer.mode == "LSTM" else (P,)
    hx = [torch.randn(directions, B, n, dtype=torch.float64, requires_grad=True) for n in sizes]
    found = results(layer, x, tuple(hx) if layer.mode == "LSTM" else hx[0])
    torch.manual_seed(0)
    seed = draw_seed(x.device)
    outputs, ends = [], []
    for g in range(directions):
        if rates is None:  # dropout is none in evaluation
            masks = on_average((0.0,) * 3, B, T, H, P)
        else:
            masks = drawn(rates, seed, B, T, H, P, g) if layer.training else on_average(rates, B, T, H, P)
        begin = [s[g] for s in hx] if len(hx) == 2 else [hx[0][g], None]
        in_order = x.flip(0) if g else x
        masks = (masks[0], *(m[::-1] for m in masks[1:])) if g else masks  # of steps in time
        output, *end = loop(layer, in_order, *begin, masks, "_l0_reverse" if g else "_l0")
        outputs.append(output.flip(0) if g else output)
        ends.append(end[: len(hx)])
    expected = [torch.cat(outputs, 2), *(torch.stack(s) for s in zip(*ends, strict=True))]
    torch.testing.assert_close(found, expected)
    leaves = [x, *hx, *layer.parameters()]
    gradients = [
        torch.autograd.grad(sum((r * (1 + i)).sin().sum() for i, r in enumerate(rs)), leaves)
        for rs in (found, expected)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_rates(p, seed):
    """Within five standard deviations of so many; a mask holds for all steps; what is left is scaled."""
    B, H, T = 20, 500, 6
    bound = 5 * math.sqrt(p * (1 - p) / (B * H))
    layer = rnnfast.RNN(1, H, nonlinearity="relu", bias=False, recurrent_dropout=p)
    torch.nn.init.zeros_(layer.weight_hh_l0)
    torch.nn.init.ones_(layer.weight_ih_l0)
    output = results(layer, torch.ones(T, B, 1), seed=seed)[0]
    assert (output == output[0]).all()
    assert abs(float((output[0] == 0).double().mean()) - p) < bound
    torch.testing.assert_close(output[output != 0], torch.full((int((output != 0).sum()),), 1 / (1 - p)))
    layer.recurrent_dropout, layer.zoneout = 0, p
    output = results(layer, torch.arange(1.0, T + 1).view(T, 1, 1).expand(T, B, 1), seed=seed)[0]
    for t in range(1, T):
        assert abs(float((output[t] == output[t - 1]).double().mean()) - p) < bound
    assert (output.diff(dim=0) != 0).double().var(0).mean() > 0.5 * p * (1 - p)  # not one mask for all steps


@pytest.mark.parametrize("kind", NOISY)
def test_a_seed_gives_the_same_and_nothing_else_does(kind):
    layer, x = make(kind, 2, 40, bidirectional=True, num_layers=2, **RATES), torch.randn(4, 3, 2).double()
    first = results(layer, x)
    for a, b in zip(first, results(layer, x), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first[0], layer(x)[0])
    assert not torch.equal(first[0], results(layer, x, seed=1)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])


def test_rows_directions_and_layers_have_masks_of_their_own():
    layer = rnnfast.RNN(60, 60, 2, "relu", bias=False, bidirectional=True, recurrent_dropout=0.5)
    for name, w in layer.named_parameters():
        (torch.nn.init.zeros_ if "hh" in name else torch.nn.init.constant_)(w, *([] if "hh" in name else [1.0]))
    _, _, masks = layer(torch.ones(2, 4, 60), all_states=True)
    masks = (masks[:, 0] != 0).unflatten(2, (2, 60)).permute(0, 2, 1, 3).reshape(-1, 60)
    assert len(masks.unique(dim=0)) == len(masks) == 2 * 2 * 4
    agreement = (masks.unsqueeze(0) == masks.unsqueeze(1)).double().mean(2)[~torch.eye(16, dtype=torch.bool)]
    assert agreement.max() < 0.5 + 5 * math.sqrt(0.25 / 60)


PLANS = [
    dict(schedule=schedule, weights=weights, workers=workers)
    for schedule in ("batch_split", "unit_split")
    for weights in ("packed", "in_place")
    for workers in (1, 2, 3)
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", NOISY)
def test_schedules_have_the_same_masks(kind, dtype):
    """To the bit: without W_hh, and with one feature, there are no sums to be formed in another order."""
    layer = make(kind, 1, 45, bidirectional=True, bias=False, dtype=dtype, **RATES)
    with torch.no_grad():
        for name in ("weight_hh_l0", "weight_hh_l0_reverse"):
            getattr(layer, name).zero_()
    x = torch.randn(5, 7, 1, dtype=dtype)
    exact = "projection" not in kind and "layer_norm" not in kind
    expected = results(layer, x)
    for plan in PLANS:
        with rnnfast.forced_plan(**plan):
            found = results(layer, x)
        for a, b in zip(found, expected, strict=True):
            if exact:
                assert torch.equal(a, b), plan
            else:
                torch.testing.assert_close(a, b, msg=str(plan))


FORMS = [dict(batch_first=True), *(dict(checkpoint_every=k) for k in (1, 2, 3, 9)), dict(recompute=True)]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", NOISY)
def test_how_it_is_computed_changes_no_mask(kind, bidirectional, form):
    plain = make(kind, 3, 9, bidirectional=bidirectional, **RATES)
    other = make(kind, 3, 9, bidirectional=bidirectional, **RATES, **form)
    other.load_state_dict(plain.state_dict())
    x = torch.randn(7, 4, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for layer in (plain, other):
        output, *last = results(layer, x.transpose(0, 1) if layer.batch_first else x)
        output = output.transpose(0, 1) if layer.batch_first else output
        loss = sum(t.sin().sum() for t in (output, *last))
        found.append([output, *last, *torch.autograd.grad(loss, [x, *layer.parameters()])])
    torch.testing.assert_close(*found)


def test_packed_rows_have_the_masks_of_padded_ones():
    """As long as they come in that order."""
    layer = make("GRU", 3, 9, bidirectional=True, **RATES)
    x, lengths = torch.randn(6, 3, 3, dtype=torch.float64), torch.tensor([6, 4, 1])
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths)
    found = results(layer, x)[0]
    torch.manual_seed(0)
    output, _ = torch.nn.utils.rnn.pad_packed_sequence(layer(packed)[0])
    torch.testing.assert_close(output[:4, 0, :9], found[:4, 0, :9])
    torch.testing.assert_close(output[:4, 1, :9], found[:4, 1, :9])
    torch.testing.assert_close(output[:1, 2, :9], found[:1, 2, :9])
    torch.testing.assert_close(output[:, 0], found[:, 0])
