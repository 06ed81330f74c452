"""Layers side by side, chunk by chunk: numbers, plans, and which stream waits for which."""

from contextlib import contextmanager

import pytest
import torch
import torch.nn.utils.parametrize
import torch.utils.checkpoint
from kinds import KINDS, make, random_hx, states

import rnnfast
from rnnfast.modules import wavefront
from rnnfast.modules.wavefront import Wave

H100 = rnnfast.CudaLimits((9, 0), 132, 232448, clusters=(66, 33, 16, 7))


@pytest.fixture
def runs(monkeypatch):
    """The waves that are run."""
    seen, run = [], wavefront.run

    def noted(x, stack, wave, *args):
        seen.append(wave)
        return run(x, stack, wave, *args)

    monkeypatch.setattr(wavefront, "run", noted)
    return seen


def results(layer, x, hx, chunks):
    """Output, last states, and the gradients of a sum of all for all."""
    given = [x, *(states(hx) if hx is not None else [])]
    with rnnfast.forced_plan(chunks=chunks):
        output, last = layer(x, hx)
    loss = output.sin().sum() + sum(s.cos().sum() for s in states(last))
    return [output, *states(last), *torch.autograd.grad(loss, [*given, *layer.parameters()])]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("has_hx", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_results_are_those_of_one_layer_after_the_other(runs, kind, has_hx, batch_first):
    for layers, T, bias in ((2, 13, True), (3, 7, False), (5, 20, True)):
        options = dict(num_layers=layers, batch_first=batch_first, bias=bias, dtype=torch.float64)
        layer = make(kind, 5, 9, **options)
        x = torch.randn(*((3, T) if batch_first else (T, 3)), 5, dtype=torch.float64, requires_grad=True)
        hx = random_hx(layer, layers, 3) if has_hx else None
        for s in states(hx) if has_hx else []:
            s.requires_grad_()
        plain = results(layer, x, hx, None)
        for chunks in (2, 3, T, T + 1):
            for a, b in zip(results(layer, x, hx, chunks), plain, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
            assert runs.pop() == Wave(layers, min(chunks, T))
    assert not runs


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_groups_of_layers_follow_one_another(monkeypatch, layers):
    """Fewer at a time than there are."""
    layer = rnnfast.LSTM(4, 6, num_layers=5, dtype=torch.float64)
    x, hx = torch.randn(11, 2, 4, dtype=torch.float64, requires_grad=True), None
    plain = results(layer, x, hx, None)
    monkeypatch.setattr(wavefront, "planned", lambda *_: Wave(layers, 3))
    for a, b in zip(results(layer, x, hx, 3), plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_an_unbatched_input_and_autocast(runs):
    layer = rnnfast.GRU(4, 6, num_layers=2)
    x = torch.randn(12, 4)
    expected = layer(x)
    with rnnfast.forced_plan(chunks=4):
        for a, b in zip(layer(x), expected, strict=True):
            torch.testing.assert_close(a, b)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output, h_n = layer(x)
    assert output.dtype == h_n.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected[0], rtol=0.05, atol=0.05)
    assert len(runs) == 2


@pytest.mark.parametrize("batch_first", [False, True])
def test_dropout_is_between_layers(monkeypatch, batch_first):
    monkeypatch.setattr(wavefront.F, "dropout", lambda x, p, training: x * 2 if p == 0.25 and training else 1 / 0)
    layer = rnnfast.RNN(3, 5, num_layers=3, dropout=0.25, batch_first=batch_first, dtype=torch.float64)
    x = torch.randn(8, 8, 3, dtype=torch.float64, requires_grad=True)
    for a, b in zip(results(layer, x, None, 3), results(layer, x, None, None), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    layer.eval()
    for a, b in zip(results(layer, x, None, 3), results(layer, x, None, None), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_gradients_of_gradients():
    layer = rnnfast.LSTM(2, 3, num_layers=2, dtype=torch.float64)
    x = torch.randn(5, 2, 2, dtype=torch.float64, requires_grad=True)

    def output(x, *_):
        with rnnfast.forced_plan(chunks=2):
            return layer(x)[0]

    assert torch.autograd.gradcheck(output, (x, *layer.parameters()))
    assert torch.autograd.gradgradcheck(output, (x, *layer.parameters()))


def test_gradients_with_16_bits_are_added_up_in_float32():
    """A weight's gradient is rounded once for each chunk and once in the end, not at each addition."""
    exact = rnnfast.GRU(16, 24, num_layers=2, dtype=torch.bfloat16)
    wide = rnnfast.GRU(16, 24, num_layers=2)
    wide.load_state_dict(exact.state_dict())
    x = torch.randn(640, 8, 16).bfloat16()
    right = results(wide, x.float().requires_grad_(), None, None)
    errors = {}
    for chunks in (1, 32):
        found = results(exact, x.clone().requires_grad_(), None, chunks)
        errors[chunks] = [
            float(((a.float() - b).norm() / b.norm()).detach()) for a, b in zip(found, right, strict=True)
        ]
    for one, many in zip(errors[1], errors[32], strict=True):
        assert many <= 1.5 * one + 2e-3


@pytest.mark.parametrize(
    ("options", "call"),
    [
        (dict(num_layers=1), {}),
        (dict(bidirectional=True), {}),
        (dict(recompute=True), {}),
        (dict(checkpoint_every=3), {}),
        (dict(zoneout=0.1), {}),
        ({}, dict(lengths=torch.tensor([7, 2]))),
        ({}, dict(all_states=True)),
    ],
    ids=str,
)
def test_what_is_run_one_layer_after_the_other(runs, options, call):
    layer = rnnfast.LSTM(3, 4, **{"num_layers": 2, **options})
    with rnnfast.forced_plan(chunks=3):
        layer(torch.randn(7, 2, 3), **call)
        packed = torch.nn.utils.rnn.pack_padded_sequence(torch.randn(7, 2, 3), [7, 4])
        layer(packed)
    layer(torch.randn(7, 2, 3))  # and, without a wish, on a CPU
    assert not runs


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_compiled_and_transformed(runs):
    layer = rnnfast.RNN(3, 4, num_layers=2)
    x = torch.randn(7, 2, 3)
    expected = layer(x)[0]
    with rnnfast.forced_plan(chunks=3):
        torch._dynamo.reset()
        compiled = torch.compile(layer, backend="eager", fullgraph=True)(x)[0]
        batched = torch.vmap(lambda x: layer(x)[0])(x.unsqueeze(0))[0]
        traced = torch.jit.trace(layer, x, check_trace=False)(x)[0]
    for found in (compiled, batched, traced):
        torch.testing.assert_close(found, expected)
    assert not runs


def test_recorded_gradients(runs):
    layer = rnnfast.LSTM(3, 4, num_layers=2)
    with rnnfast.lab.record_gradients(layer) as recording, rnnfast.forced_plan(chunks=3):
        layer(torch.randn(7, 2, 3))[0].sum().backward()
    assert recording["l1"].shape == (7, 2, 1)
    assert not runs


def test_a_wish_that_cannot_be():
    with pytest.raises(ValueError, match="chunks: got 0, expected at least 1"), rnnfast.forced_plan(chunks=0):
        pass


def plan(cell="lstm", H=512, *, T=1024, B=16, layers=2, trains=False, captured=False, limits=H100, **options):
    options = {"dtype": torch.bfloat16, "tf32": False, "P": 0, **options}
    return wavefront.plan(cell, T, B, H, layers, trains, captured, limits, **options)


def test_plans():
    assert plan() is not None
    assert plan(layers=4).abreast > plan(layers=2).abreast == 2
    assert plan(T=32) is None  # no time for chunks
    assert plan(layers=1) is None
    assert plan(B=0) is None
    assert plan(H=4096) is None  # stepwise, as with half of the GPU:
    assert plan(H=512, B=64, dtype=torch.float32) is None
    assert plan(H=512, dtype=torch.float32) is None
    assert plan(H=512, dtype=torch.float32, tf32=True) is not None
    assert plan(P=64) is None
    assert plan(H=768, dtype=torch.float32) is None
    # Where the host calls operators no more often than it keeps up with.
    assert plan("elman_tanh", 64, trains=True) is None
    assert plan("elman_tanh", 64, trains=True, captured=True) is not None
    assert plan(limits=rnnfast.CudaLimits((8, 0), 108, 166912)) is not None


def test_a_batch_of_no_rows_and_one_on_two_devices(runs):
    layer = rnnfast.GRU(3, 4, num_layers=2)
    with rnnfast.forced_plan(chunks=3):
        layer(torch.randn(7, 2, 3), torch.randn(2, 2, 4, device="meta"))
        assert not runs
        assert layer(torch.randn(7, 0, 3))[0].shape == (7, 0, 4)


def test_weights_that_are_no_parameters_and_some_that_are_frozen(runs):
    """As those of DataParallel's replicas, and as in fine-tuning."""
    layer = rnnfast.LSTM(3, 4, num_layers=2, dtype=torch.float64)
    layer.weight_hh_l0.requires_grad_(False)
    x = torch.randn(9, 2, 3, dtype=torch.float64)
    weights = {name: p.detach().clone().requires_grad_(p.requires_grad) for name, p in layer.named_parameters()}
    found = []
    for chunks in (1, 4):
        with rnnfast.forced_plan(chunks=chunks):
            output = torch.func.functional_call(layer, weights, x)[0]
        wanted = [w for w in weights.values() if w.requires_grad]
        found.append([output, *torch.autograd.grad(output.sin().sum(), wanted)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    assert len(runs) == 1


@pytest.mark.parametrize("wave", [None, Wave(2, 3)])
def test_weights_are_read_once(monkeypatch, wave):
    """Which may compute something: spectral_norm's go on by an iteration each time."""
    read = []

    class Noted(torch.nn.Module):
        def forward(self, weight):
            read.append(weight)
            return weight

    layer = rnnfast.GRU(3, 4, num_layers=2)
    torch.nn.utils.parametrize.register_parametrization(layer, "weight_hh_l1", Noted())
    read.clear()
    monkeypatch.setattr(wavefront, "planned", lambda *_: wave)
    with rnnfast.forced_plan(chunks=3):
        layer(torch.randn(7, 2, 3))
    assert len(read) == 1


def test_clipped_and_checkpointed(runs):
    layer = rnnfast.RNN(3, 4, num_layers=2, bptt_clip=0.01, dtype=torch.float64)
    x = torch.randn(9, 2, 3, dtype=torch.float64, requires_grad=True)
    plain = results(layer, x, None, 1)
    for a, b in zip(results(layer, x, None, 4), plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    for reentrant in (False, True):
        with rnnfast.forced_plan(chunks=4):
            output, h_n = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=reentrant)
            (output.sin().sum() + h_n.cos().sum()).backward()
        found = [output, h_n, x.grad, *(p.grad for p in layer.parameters())]
        for a, b in zip(found, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
        x.grad = None
        layer.zero_grad()
    assert len(runs) == 5


def test_who_looks_at_all_operators_sees_one_for_each_layer(runs):
    from torch.utils.flop_counter import FlopCounterMode

    with rnnfast.forced_plan(chunks=3), FlopCounterMode(display=False):
        rnnfast.RNN(3, 4, num_layers=2)(torch.randn(7, 2, 3))
    assert not runs


class Stream:
    """What torch.cuda.Stream is to the wavefront; knows what has been done before what it does next."""

    current = None

    def __init__(self):
        self.done = set()

    def record_event(self):
        return set(self.done)

    def wait_event(self, event):
        self.done |= event

    @contextmanager
    def entered(self):
        before, Stream.current = Stream.current, self
        yield
        Stream.current = before


def check_streams(monkeypatch):
    """Runs a wave over simulated streams; raises where a layer may read what is not written, or given away."""
    streams = [Stream() for _ in range(3)]
    written, allocated, kept = {}, {}, set()  # by memory: an operation, a stream; (memory, stream)
    places = {}  # by operation: lane and chunk
    own, count, done = streams[-1], 0, dict.fromkeys(streams, 0)

    def memory(t):
        return t.untyped_storage().data_ptr()

    def operation(stream, tensors):
        nonlocal count
        count += 1
        stream.done.add(count)
        for t in tensors:
            written[memory(t)], allocated[memory(t)] = count, stream

    recurrence = rnnfast.ops.recurrence
    alive, last = [], {}  # all results, so that no memory is another one's; each stream's latest

    def watched(x, w_ih, w_hh, w_hr, b_ih, b_hh, h0, c0, *args, **options):
        for t in (x, w_ih, w_hh, b_ih, b_hh, h0, c0):
            assert written[memory(t)] in Stream.current.done, "not waited for"
            assert allocated[memory(t)] is Stream.current or (memory(t), Stream.current) in kept, "given away"
        found = recurrence(x, w_ih, w_hh, w_hr, b_ih, b_hh, h0, c0, *args, **options)
        lane, chunk = streams.index(Stream.current), done[Stream.current]
        done[Stream.current] += 1
        waited_for = {places[n] for n in Stream.current.done if n in places}
        assert waited_for == {(j, k) for j in range(lane + 1) for k in range(chunk + (j < lane))}, "waits too long"
        operation(Stream.current, found)
        places[count] = lane, chunk
        alive.append(found)
        last[Stream.current] = found
        return found

    layer = rnnfast.LSTM(4, 6, num_layers=3)
    x, hx = torch.randn(10, 2, 4), random_hx(layer, 3, 2)
    operation(own, [x, *hx, *layer.parameters()])
    monkeypatch.setattr(wavefront, "_streams_for", lambda device, layers: streams[-layers:])
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream.entered())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda t, stream: kept.add((memory(t), stream)))
    monkeypatch.setattr(rnnfast.ops, "recurrence", watched)
    with torch.no_grad(), rnnfast.forced_plan(chunks=4), own.entered():
        layer(x, hx)
    assert len(alive) == 12
    for _, *of_layer in last.values():
        for t in of_layer:
            assert written[memory(t)] in own.done, "not waited for"
            assert allocated[memory(t)] is own or (memory(t), own) in kept, "given away"


def test_streams(monkeypatch):
    check_streams(monkeypatch)


@pytest.mark.parametrize(
    ("name", "fault", "seen"),
    [
        ("_wait", lambda *_: None, "not waited for"),
        ("use", lambda *_: None, "given away"),
        ("hand_on", lambda lanes, t, lane: lanes._wait(lane + 1, lane), "given away"),
        ("hand_on", lambda lanes, t, lane: lanes.use(lane + 1, t), "not waited for"),
    ],
)
def test_faults_in_streams_are_seen(monkeypatch, name, fault, seen):
    monkeypatch.setattr(wavefront._Lanes, name, fault)
    with pytest.raises(AssertionError, match=seen):
        check_streams(monkeypatch)


def test_lanes_that_wait_for_more_than_they_need_are_seen(monkeypatch):
    monkeypatch.setattr(wavefront, "reversed", lambda lanes: lanes, raising=False)
    with pytest.raises(AssertionError, match="waits too long"):
        check_streams(monkeypatch)
