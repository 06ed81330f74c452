"""Options of layers, each alone and in pairs: what kernels give is what the same layer gives in plain torch."""

import itertools
import random

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kinds import in_plain_torch, random_hx, states
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils.rnn import pack_padded_sequence

import rnnfast
from rnnfast.modules import base


@pytest.fixture(autouse=True)
def _one_thread():
    """All that is run is small."""
    torch.set_num_threads(1)


# Those of the constructor, then those of a call.
OF_LAYERS = {
    "bptt_clip": dict(bptt_clip=0.05),
    "recompute": dict(recompute=True),
    "checkpoint_every": dict(checkpoint_every=3),
    "recurrent_dropout": dict(recurrent_dropout=0.4),
    "zoneout": dict(zoneout=0.3),
    "layer_norm": dict(layer_norm=True),
    "bidirectional": dict(bidirectional=True),
    "proj_size": dict(proj_size=3),
    "layers": dict(num_layers=2, dropout=0.5),
    "batch_first": dict(batch_first=True),
    "no bias": dict(bias=False),
}
OF_CALLS = ["hx", "lengths", "reset", "reset_state", "all_states", "packed", "nested", "unbatched"]
NAMES = ["RNN", "LSTM", "GRU"]
FORMS = {"packed", "nested", "unbatched"}


def fits(name, options):
    """Whether there is such a layer, and such a call."""
    ragged = options & {"lengths", "reset", "reset_state"}
    return not (
        (name != "LSTM" and options & {"layer_norm", "proj_size"})
        or options >= {"layer_norm", "proj_size"}
        or options >= {"nested", "all_states"}
        or len(options & FORMS) > 1
        or (options & FORMS and ragged)
    )


def cases():
    """Every option of every layer; each pair of one layer, in turn, the others slow."""
    options = (*OF_LAYERS, *OF_CALLS)
    for i, some in enumerate([*((o,) for o in options), *itertools.combinations(options, 2)]):
        names = [name for name in NAMES if fits(name, set(some))]
        for name in names:
            quick = len(some) == 1 or name == names[i % len(names)]
            yield pytest.param(name, some, marks=[] if quick else pytest.mark.slow)


PAIRS = list(cases())


class Call:
    """A layer with these options, and what it is called with.

    Args: T, B, I, H: sizes.
    """

    def __init__(self, name, options, T=6, B=4, I=2, H=5):  # noqa: E741
        own = {k: v for option in options if option in OF_LAYERS for k, v in OF_LAYERS[option].items()}
        own.setdefault("dtype", torch.float64)
        if name == "RNN":
            own["nonlinearity"] = random.choice(["tanh", "relu"])
        H = max(H, 1 + own.get("proj_size", 0))
        self.layer, self.options = getattr(rnnfast, name)(I, H, **own), options
        with torch.no_grad():
            for p in self.layer.parameters():
                p.add_(0.6 / H**0.5 * torch.randn_like(p))  # so that relus do not run away with more units
        lead = self.layer.num_layers * (2 if self.layer.bidirectional else 1)
        self.x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
        self.hx = (
            random_hx(self.layer, lead, *([] if "unbatched" in options else [B])) if "hx" in options else None
        )
        self.lengths = torch.randint(1, T + 1, (B,))
        self.lengths[torch.randint(0, B, ())] = T  # a packed or nested batch has as many steps as its longest row
        self.call = {}
        if "lengths" in options:
            self.call["lengths"] = torch.randint(0, T + 1, (B,))
        if "reset" in options or "reset_state" in options:
            reset = torch.rand(T, B) < 0.3
            self.call["reset"] = reset.t() if self.layer.batch_first else reset
        if "reset_state" in options:
            self.call["reset_state"] = random_hx(self.layer, lead, random.choice([1, B]))
        if "all_states" in options:
            self.call["all_states"] = True
        given = [s for hx in (self.hx, self.call.get("reset_state")) if hx is not None for s in states(hx)]
        self.leaves = [self.x, *(s.requires_grad_() for s in given), *self.layer.parameters()]

    def input(self, x):
        if "nested" in self.options:
            rows = [x[:n, b] for b, n in enumerate(self.lengths.tolist())]
            return torch.nested.as_nested_tensor(rows, layout=torch.jagged)
        if "unbatched" in self.options:
            return x[:, 0]
        x = x.transpose(0, 1) if self.layer.batch_first else x
        if "packed" in self.options:
            return pack_padded_sequence(x, self.lengths, self.layer.batch_first, enforce_sorted=False)
        return x

    def results(self):
        """All that it returns, as dense tensors, for one seed."""
        torch.manual_seed(7)
        output, last, *others = self.layer(self.input(self.x), self.hx, **self.call)
        output = output.data if "packed" in self.options else output
        output = output.values() if "nested" in self.options else output
        return [output, *states(last), *(s for of_all in others for s in states(of_all))]

    def with_gradients(self):
        results = self.results()
        loss = sum((r * (1 + i)).sin().sum() for i, r in enumerate(results))
        gradients = torch.autograd.grad(loss, self.leaves, allow_unused=True)
        return [
            *results,
            *(torch.zeros_like(p) if g is None else g for g, p in zip(gradients, self.leaves, strict=True)),
        ]

    def check(self):
        """That kernels and plain torch agree."""
        with pytest.MonkeyPatch.context() as patch:
            if {"layers", "recompute", "checkpoint_every"} & set(self.options):
                # Dropout between layers is drawn in the order of what they run over.
                patch.setattr(base.RecurrentLayer, "_takes_stretches", False)
            found = self.with_gradients()
            with in_plain_torch():
                expected = self.with_gradients()
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=lambda m, i=i: f"{i}: {m}")


@pytest.mark.parametrize(("name", "options"), PAIRS, ids=str)
def test_alone_and_in_pairs(name, options):
    call = Call(name, options)
    call.check()
    if {"recurrent_dropout", "zoneout", "layers"} & set(options):
        call.layer.eval()
        call.check()


@st.composite
def anything(draw):
    """A layer, some of all options that go together, and sizes."""
    name = draw(st.sampled_from(NAMES))
    chosen = draw(st.lists(st.sampled_from([*OF_LAYERS, *OF_CALLS]), unique=True, max_size=8))
    options = []
    for option in chosen:
        if fits(name, {*options, option}):
            options.append(option)
    sizes = {size: draw(st.integers(1, most)) for size, most in dict(T=12, B=9, I=5, H=40).items()}
    return name, tuple(options), sizes, draw(st.integers(0, 2**31 - 1))


def check_anything(drawn):
    name, options, sizes, seed = drawn
    torch.manual_seed(seed)
    random.seed(seed)
    Call(name, options, **sizes).check()


ONE = dict(T=1, B=1, I=1, H=1)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(anything())
@example(("GRU", ("batch_first", "reset"), {**ONE, "B": 2}, 0))  # an axis of one step, whose stride is any
@example(("RNN", ("lengths",), ONE, 1))  # no steps at all
@example(("LSTM", ("lengths", "layer_norm", "hx"), ONE, 1))
def test_some_options_of_any_shape(drawn):
    check_anything(drawn)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(anything())
def test_any_options_of_any_shape(drawn):
    check_anything(drawn)


# Second derivatives of nested tensors torch itself does not have.
DIFFERENTIATED = [
    ("LSTM", ("layer_norm",)),
    ("LSTM", ("layer_norm", "bidirectional", "recurrent_dropout", "zoneout", "lengths")),
    ("LSTM", ("layer_norm", "checkpoint_every", "zoneout")),
    ("LSTM", ("proj_size", "recurrent_dropout", "zoneout")),
    *((name, (option,)) for name in NAMES for option in ("recurrent_dropout", "zoneout")),
    *(
        (name, ("recurrent_dropout", "zoneout", option))
        for name in NAMES
        for option in OF_CALLS
        if option != "nested"
    ),
    *((name, ("recurrent_dropout", "zoneout", "checkpoint_every", "bidirectional")) for name in NAMES),
    *((name, ("recurrent_dropout", "zoneout", "recompute", "layers", "no bias")) for name in NAMES),
]


@pytest.mark.parametrize(("name", "options"), DIFFERENTIATED, ids=str)
def test_first_and_second_derivatives(name, options):
    """By differences, the noise held fast."""
    call = Call(name, options, T=4, B=3, H=3)
    if call.layer.mode == "RNN_RELU":
        call.layer.mode, call.layer.nonlinearity = "RNN_TANH", "tanh"  # differences go across kinks
    call.lengths = torch.tensor([4, 2, 1])
    names = [n for n, _ in call.layer.named_parameters()]

    def function(x, *parameters):
        call.x = x
        swapped = torch.nn.utils.stateless._reparametrize_module(
            call.layer, dict(zip(names, parameters, strict=True))
        )
        with swapped:
            return tuple(call.results())

    inputs = (call.x, *call.layer.parameters())
    assert gradcheck(function, inputs, fast_mode=True)
    assert gradgradcheck(function, inputs, fast_mode=True)
