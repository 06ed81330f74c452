"""Layers on a GPU: against the float64 oracle, beside cuDNN, in graphs and streams. They need a GPU."""

import os
import random
import time

import pytest
import torch
from kinds import KINDS as LAYERS
from kinds import make, random_hx, states
from problems import CELLS, KINDS, SCATTERING, TOLERANCE, check_against_oracle, draw, most_rows, small_problems

import rnnfast
from rnnfast.modules import wavefront

# What torch.nn says of its own layers' weights in bfloat16, and torch 2.11 of gradients in a stream of their own.
TORCHS_OWN = [
    "RNN module weights are not part of single contiguous",
    "The AccumulateGrad node's stream does not match",
]
pytestmark = [
    *(pytest.mark.filterwarnings(f"ignore:{begin}") for begin in TORCHS_OWN),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.skipif(not rnnfast._library.CUDA, reason="rnnfast was built without CUDA"),
]
SCHEDULES = ["stepwise", "cta", "cluster", "scatter", "grid"]
# Blocks that share rows, and of each cluster of a grid, beside those that the planner takes.
CREWS = [("cta", 1, None), *((s, crew, None) for s in ("cluster", "scatter") for crew in (2, 4, 8, 16))]
CREWS += [("grid", crew, 1) for crew in (2, 3, 8, 16, 33)]
CREWS += [("grid", *sizes) for sizes in ((4, 2), (14, 2), (8, 4), (20, 4), (16, 8))]
DTYPES = list(TOLERANCE)
op = torch.ops.rnnfast


def of_bptt(schedule, kind):
    """What BPTT is planned as: of cells without gates nothing scatters."""
    return "cluster" if schedule == "scatter" and kind not in SCATTERING else schedule


@pytest.fixture(autouse=True)
def ieee():
    """float32 in full, as cuDNN's layers and matrix products are set, too."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    # cuDNN's layers are not deterministic by torch's count.
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Backward passes in this thread, where plans are forced.
    with torch.autograd.set_multithreading_enabled(False):
        yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
def test_small_problems(kind, schedule, dtype):
    with rnnfast.forced_plan(schedule, arithmetic=random.choice([None, "mma"])):
        for problem in small_problems(kind, dtype):
            check_against_oracle(problem, "cuda")
            expected = "stepwise" if problem.is_stepwise else of_bptt(schedule, kind)
            assert op.last_cuda_plan().startswith(expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("schedule", "crew", "cluster"), CREWS)
@pytest.mark.parametrize("kind", CELLS)
def test_crews(kind, schedule, crew, cluster, dtype):
    """Of every size, on units that do not fall evenly, where there is room."""
    seen = 0
    for H in (random.choice([13, 29]), random.choice([37, 130, 256]), random.choice([390, 512, 700])):
        # No more than a block's threads take.
        possible = {"cta": [1], "grid": [1, 2, 4, 8, 16, 32]}.get(schedule, [1, 2, 4, 8])
        rows = random.choice([n for n in possible if n <= max(most_rows(H, crew, dtype), 1)])
        layout = random.choice(["time", "batch", "packed"])
        problem = draw(12, 9, H, 2, dtype, cell=kind, layout=layout, direction=random.randint(0, 2))
        with rnnfast.forced_plan(schedule, rows=rows, crew=crew, cluster=cluster):
            check_against_oracle(problem, "cuda")
            plan = op.last_cuda_plan()
            clusters = cluster not in (None, 1)
            seen += plan.startswith(of_bptt(schedule, kind)) and (" cluster=" in plan) == clusters
    assert seen > 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cluster", [1, 4])
@pytest.mark.parametrize("kind", CELLS)
def test_crews_of_one_launch_after_the_other(kind, cluster, dtype):
    """Where not all of them fit the GPU at the same time: as if they did."""
    p = draw(12, 33, 60, 2, dtype, cell=kind, direction=2, layout=random.choice(["time", "packed"])).to("cuda")
    seen, launches = [], []
    for rows in (1, 4):
        with rnnfast.forced_plan("grid", rows=rows, crew=12, cluster=cluster, arithmetic="fma"):
            check_against_oracle(p.to("cpu"), "cuda")
            assert op.last_cuda_plan().startswith("grid ")
            launches.append(int(op.last_cuda_plan().split("launches=")[1].split()[0]))
            results = p.forward(saves=True)
            seen.append([*results, *p.gradients(results).values()])
    assert launches[0] > launches[1] > 1
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", CELLS)
def test_larger_problems(kind, dtype):
    for T, B, H in [(30, 17, 64), (20, 5, 96), (15, 9, 128), (10, 3, 200), (5, 130, 50), (4, 2, 600)]:
        check_against_oracle(draw(T, B, H, 1, dtype, cell=kind, layout=random.choice(["time", "packed"])), "cuda")


def rms(a, b):
    return float((a.detach().double().cpu() - b.detach().cpu()).square().mean().sqrt())


def outputs_and_gradients(layer, x, dy):
    x = x.clone().requires_grad_()
    output, hx = layer(x)
    output.backward(dy)
    found = [output, *states(hx), x.grad, *(p.grad for p in layer.parameters())]
    layer.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("H", [24, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_errors_are_no_larger_than_cudnns(kind, dtype, H):
    T, B = 64, 16
    exact = make(kind, H, H, package=torch.nn, dtype=torch.float64)
    with torch.no_grad():
        for p in exact.parameters():
            p.copy_(p.to(dtype).double())
    x, dy = torch.randn(T, B, H).to(dtype), None
    dy = torch.randn_like(exact(x.double())[0]).to(dtype)
    expected = outputs_and_gradients(exact, x.double(), dy.double())
    found = {}
    for package in (torch.nn, rnnfast):
        layer = make(kind, H, H, package=package, dtype=dtype, device="cuda")
        layer.load_state_dict(exact.state_dict())
        found[package] = outputs_and_gradients(layer, x.cuda(), dy.cuda())
    for i, (ours, theirs, right) in enumerate(zip(found[rnnfast], found[torch.nn], expected, strict=True)):
        own, cudnns = rms(ours, right), rms(theirs, right)
        # Each is an estimate from n errors, whose deviation is 1 / sqrt(2 n) of it: three of the quotient's.
        allowed = 1.1 + 3 / right.numel() ** 0.5
        bound = allowed * cudnns + 1e-7 * float(right.detach().abs().max())
        assert own <= bound, f"result {i}: {own}, cuDNN {cudnns}"


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", LAYERS)
def test_gradcheck(kind, schedule):
    layer = make(kind, 3, 5, num_layers=2, bidirectional=True, device="cuda", dtype=torch.float64)
    x = torch.randn(4, 2, 3, device="cuda", dtype=torch.float64, requires_grad=True)
    with rnnfast.forced_plan(schedule):
        assert torch.autograd.gradcheck(lambda x, *_: layer(x)[0], (x, *layer.parameters()), nondet_tol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", LAYERS)
def test_the_same_bits_from_run_to_run(kind, schedule):
    layer = make(kind, 40, 70, bidirectional=True, device="cuda")
    x, dy = torch.randn(50, 33, 40, device="cuda"), None
    dy = torch.randn_like(layer(x)[0])
    with rnnfast.forced_plan(schedule):
        first = outputs_and_gradients(layer, x, dy)
        for _ in range(10):
            again = outputs_and_gradients(layer, x, dy)
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_in_a_cuda_graph(kind, schedule, batch_first):
    """Forward and backward are captured, and replayed on other values."""
    layer = make(kind, 16, 24, bidirectional=True, batch_first=batch_first, device="cuda")
    x = torch.randn(9, 5, 16, device="cuda", requires_grad=True)
    fresh = torch.randn_like(x)

    def step():
        output, _ = layer(x)
        return output, *torch.autograd.grad(output.sin().sum(), (x, *layer.parameters()))

    with rnnfast.forced_plan(schedule):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
        with torch.no_grad():
            x.copy_(fresh)
        graph.replay()
        for a, b in zip(captured, step(), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", LAYERS)
def test_packed_sequences(kind):
    layer = make(kind, 7, 33, num_layers=2, bidirectional=True, device="cuda", dtype=torch.float64)
    peer = make(
        kind, 7, 33, package=torch.nn, num_layers=2, bidirectional=True, device="cuda", dtype=torch.float64
    )
    peer.load_state_dict(layer.state_dict())
    rows = [torch.randn(n, 7, device="cuda", dtype=torch.float64) for n in (3, 17, 1, 9, 9)]
    packed = torch.nn.utils.rnn.pack_sequence(rows, enforce_sorted=False)
    found = []
    for each in (layer, peer):
        output, hx = each(packed)
        (output.data.sin().sum() + states(hx)[0].cos().sum()).backward()
        found.append([output.data, *states(hx), *(p.grad for p in each.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_more_steps_than_cudnn_takes():
    layer = rnnfast.GRU(4, 8, device="cuda")
    x = torch.randn(70_000, 1, 4, device="cuda")
    output, h_n = layer(x)
    torch.testing.assert_close(output[-1], h_n[0])
    tail, _ = layer(x[65_000:], output[64_999:65_000].contiguous())
    torch.testing.assert_close(tail, output[65_000:])


def test_another_stream():
    layer = rnnfast.LSTM(32, 32, device="cuda")
    x = torch.randn(200, 8, 32, device="cuda")
    expected = layer(x)[0]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = x * 0
        torch.cuda._sleep(10_000_000)
        late += x
        found = layer(late)[0]
    stream.synchronize()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", LAYERS)
def test_autocast(kind):
    layer = make(kind, 16, 24, device="cuda")
    x = torch.randn(5, 3, 16, device="cuda")
    with torch.autocast("cuda", dtype=torch.float16):
        output, _ = layer(x)
    assert output.dtype == torch.float16
    output.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_follows_cudnns_setting(tf32):
    torch.backends.cudnn.allow_tf32 = tf32
    rnnfast.LSTM(32, 256, device="cuda")(torch.randn(5, 8, 32, device="cuda"))
    assert ("mma" in op.last_cuda_plan()) == tf32
    assert op.last_cuda_plan() == str(rnnfast.plan("lstm", 5, 8, 256, device="cuda"))


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("schedule", ["stepwise", "cta", "grid"])
@pytest.mark.parametrize("kind", LAYERS)
def test_all_products_follow_cudnns_setting(kind, schedule, tf32):
    """Not that of torch's products, which is the other one here."""
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32, not tf32
    layer, exact = make(kind, 96, 128, device="cuda"), make(kind, 96, 128, device="cuda", dtype=torch.float64)
    exact.load_state_dict(layer.state_dict())
    given, found = [torch.randn(7, 24, 96), *states(random_hx(layer, 1, 24))], []
    for each in (layer, exact):
        x, h, *c = [t.detach().to(each.weight_hh_l0).requires_grad_() for t in given]
        with rnnfast.forced_plan(schedule, arithmetic="fma"):
            output, _ = each(x, (h, *c) if c else h)
            output.sin().sum().backward()
        found.append([output, x.grad, h.grad, *(p.grad for p in each.parameters() if p.dim() == 2)])
    errors = [float(((a.double() - b).norm() / b.norm()).detach()) for a, b in zip(*found, strict=True)]
    assert [error > 3e-5 for error in errors] == [tf32] * len(errors), errors


def test_tensors_on_two_devices():
    layer = rnnfast.LSTM(3, 4, device="cuda")
    with pytest.raises(RuntimeError, match="device"):
        layer(torch.randn(2, 1, 3))


def test_streams_in_parallel():
    """Launches whose blocks wait for each other, in several streams: none may keep others from running."""
    layers = [rnnfast.LSTM(64, 384, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    x = torch.randn(40, 16, 64, device="cuda", dtype=torch.bfloat16)
    streams = [torch.cuda.Stream() for _ in layers]
    for schedules in (["cluster"] * 3, ["grid"] * 3, ["grid", "cluster", "cta"]):
        expected, found = [], [[] for _ in layers]
        for layer, schedule in zip(layers, schedules, strict=True):
            with rnnfast.forced_plan(schedule), torch.no_grad():
                expected.append(layer(x)[0])
        torch.cuda.synchronize()
        for _ in range(20):
            for layer, schedule, stream, outputs in zip(layers, schedules, streams, found, strict=True):
                with rnnfast.forced_plan(schedule), torch.cuda.stream(stream), torch.no_grad():
                    outputs.append(layer(x)[0])
        torch.cuda.synchronize()
        for outputs, right in zip(found, expected, strict=True):
            assert all(torch.equal(output, right) for output in outputs)


@pytest.fixture(params=[False, True], ids=["autograd in this thread", "autograd in its own"])
def threads(request):
    with torch.autograd.set_multithreading_enabled(request.param):
        yield


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layers", [2, 4])
@pytest.mark.parametrize("kind", LAYERS)
def test_layers_side_by_side(kind, layers, dtype, threads):
    """In streams of their own, all of which wait for what the caller's stream is at, and it for them."""
    layer = make(kind, 48, 96, num_layers=layers, dropout=0.0, device="cuda", dtype=dtype)
    x, dy = torch.randn(100, 16, 48, device="cuda", dtype=dtype), None
    dy = torch.randn_like(layer(x)[0])
    plain = outputs_and_gradients(layer, x, dy)
    tolerance = {} if dtype == torch.float64 else dict(rtol=0.05, atol=0.05)
    first = None
    for _ in range(10):
        late = x * torch.nan
        torch.cuda._sleep(2_000_000)
        late.copy_(x)
        with rnnfast.forced_plan(chunks=7):
            found = outputs_and_gradients(layer, late, dy)
        late.fill_(torch.nan)
        first = first or [t.clone() for t in found]
        for a, b, right in zip(found, first, plain, strict=True):
            assert torch.equal(a, b)
            scale = float(right.abs().max())
            torch.testing.assert_close(a / scale, right / scale, **tolerance)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_layers_side_by_side_in_a_cuda_graph(kind, threads):
    layer = make(kind, 16, 24, num_layers=3, dropout=0.25, device="cuda").eval()
    x = torch.randn(40, 5, 16, device="cuda", requires_grad=True)

    def step():
        output, _ = layer(x)
        return output, *torch.autograd.grad(output.sin().sum(), (x, *layer.parameters()))

    with rnnfast.forced_plan(chunks=4):
        step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
    graph.replay()
    for a, b in zip(captured, step(), strict=True):
        torch.testing.assert_close(a, b)


def test_layers_run_side_by_side_where_that_is_estimated_to_be_faster(monkeypatch):
    seen, run = [], wavefront.run
    monkeypatch.setattr(
        wavefront, "run", lambda x, stack, wave, *args: seen.append(wave) or run(x, stack, wave, *args)
    )
    layer = rnnfast.LSTM(64, 256, num_layers=3, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(2000, 16, 64, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        found = layer(x)[0]
        with rnnfast.forced_plan(chunks=1):
            torch.testing.assert_close(found, layer(x)[0], rtol=0.05, atol=0.05)
        layer(x[:10])
    assert len(seen) == 1
    assert seen[0].chunks > 1


@pytest.mark.skipif("RNNFAST_SOAK_SECONDS" not in os.environ, reason="RNNFAST_SOAK_SECONDS says for how long")
def test_soak():
    """Random layers in two streams, and graphs of them and of their gradients replayed, for a time: all end, with
    the same bits."""
    end = time.monotonic() + float(os.environ["RNNFAST_SOAK_SECONDS"])
    streams = [torch.cuda.Stream() for _ in range(2)]
    launches = 0
    while time.monotonic() < end:
        work = []
        for stream in streams:
            schedule, crew, cluster = random.choice(CREWS)
            wish = dict(
                rows=random.choice([1, 2, 4, 8, 16, 32]), crew=crew, cluster=cluster, chunks=random.choice([1, 3])
            )
            dtype, H = random.choice([torch.float32, torch.bfloat16]), random.randint(1, 600)
            kind = random.choice(list(LAYERS))
            layers, directions = random.choice([(1, 1), (1, 2), (3, 1)])
            options = dict(num_layers=layers, bidirectional=directions == 2, device="cuda", dtype=dtype)
            layer = make(kind, 16, H, **options)
            x = torch.randn(random.randint(1, 200), random.randint(1, 40), 16, device="cuda", dtype=dtype)
            x.requires_grad_()

            def both(layer=layer, x=x):
                output, _ = layer(x)
                return output.detach(), *torch.autograd.grad(output, x, output.detach())

            torch.cuda.synchronize()
            with rnnfast.forced_plan(schedule, **wish), torch.cuda.stream(stream):
                first = both()
                stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=stream):
                    captured = both()
            work.append((stream, graph, captured, first))
        for _ in range(20):
            for stream, graph, *_ in work:
                with torch.cuda.stream(stream):
                    graph.replay()
                launches += 1
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for *_, captured, first in work for a, b in zip(captured, first, strict=True))
    print(f"{launches} launches")
