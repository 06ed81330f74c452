"""Layers on a GPU beside torch.nn's, which are cuDNN's: ``pytest benchmarks --device cuda``.

Four grids: that of FlashRNN's figure (one head, B = 16, T = 1024), Haste's (T = 50, float32), the shape of
fastrnns, and stacks of layers, also beside our own with one layer after the other. Each call is synchronised.
``tf32`` is float32 with torch.backends.cudnn.allow_tf32, torch's default; ``float32`` without.
"""

import itertools

import pytest
import torch
from shapes import CELLS, KINDS, Pair, forward, training

import rnnfast
from rnnfast.modules import wavefront

DTYPES = {
    "float32": (torch.float32, False),
    "tf32": (torch.float32, True),
    "bfloat16": (torch.bfloat16, False),
    "float16": (torch.float16, False),
}
CALLS = {"forward": forward, "training": training}
# (T, B, H, I)
FLASHRNN = [(1024, 16, H, H) for H in (16, 32, 64, 128, 256, 768)]
HASTE = [(50, B, H, 256) for B, H in itertools.product((1, 16, 32, 64, 128), (128, 256, 512, 1024, 2048, 4096))]
FASTRNNS = [(100, 64, 512, 512)]
STACKED = [(512, 16, 256, 256), (512, 16, 512, 512), (1024, 16, 768, 768), (100, 64, 512, 512)]
STACKS = list(itertools.product(STACKED, (2, 4)))


# torch.nn's bfloat16 layers say so at each call.
pytestmark = pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous")


@pytest.fixture
def precision():
    """precision(tf32): how float32 is multiplied, until the test ends."""
    before = torch.backends.cudnn.allow_tf32

    def set_to(tf32):
        torch.backends.cudnn.allow_tf32 = tf32

    yield set_to
    torch.backends.cudnn.allow_tf32 = before


def in_a_row(work):
    """The same with one layer after the other."""

    def run():
        with rnnfast.forced_plan(chunks=1):
            work()

    return run


def wave_of(work):
    """How layers ran side by side, if they did."""
    seen, run = [None], wavefront.run

    def noted(x, stack, wave, *args):
        seen.append(wave)
        return run(x, stack, wave, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wavefront, "run", noted)
        work()
    return seen[-1]


def measure(in_turn, precision, benchmark, kind, dtype, call, sizes, layers=1):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    of, tf32 = DTYPES[dtype]
    precision(tf32)
    T, B, H, I = sizes  # noqa: E741
    pair = Pair.of(kind, T, B, H, I, num_layers=layers, device="cuda", dtype=of)

    def synchronised(work):
        def run():
            work()
            torch.cuda.synchronize()

        return run

    ours, peers = pair.calls(CALLS[call])
    if layers > 1:
        peers["rnnfast, layers in a row"] = in_a_row(ours)
        benchmark.extra_info["wave"] = str(wave_of(ours))
    found = in_turn(synchronised(ours), {name: synchronised(peer) for name, peer in peers.items()}, share=0.25)
    plans = {
        name: rnnfast.plan(CELLS[kind], T, B, H, dtype=of, device="cuda", pass_=name)
        for name in (("forward",) if call == "forward" else ("forward", "bptt"))
    }
    benchmark.extra_info["plans"] = {name: str(plan) for name, plan in plans.items()}
    if found:
        benchmark.extra_info["microseconds a step"] = round(benchmark.stats.stats.median / T * 1e6, 3)
        benchmark.extra_info["schedule"] = "+".join(plan.schedule for plan in plans.values())


def case(sizes):
    return "T{}_B{}_H{}_I{}".format(*sizes)


def stack_case(stack):
    return f"{case(stack[0])}_{stack[1]}_layers"


@pytest.mark.parametrize("sizes", FLASHRNN, ids=case)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_flashrnn(in_turn, precision, benchmark, kind, dtype, call, sizes):
    measure(in_turn, precision, benchmark, kind, dtype, call, sizes)


@pytest.mark.parametrize("sizes", HASTE, ids=case)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("dtype", ["float32", "tf32"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_haste(in_turn, precision, benchmark, kind, dtype, call, sizes):
    measure(in_turn, precision, benchmark, kind, dtype, call, sizes)


@pytest.mark.parametrize("sizes", FASTRNNS, ids=case)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_fastrnns(in_turn, precision, benchmark, kind, dtype, call, sizes):
    measure(in_turn, precision, benchmark, kind, dtype, call, sizes)


@pytest.mark.parametrize("stack", STACKS, ids=stack_case)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_stacks(in_turn, precision, benchmark, kind, dtype, call, stack):
    sizes, layers = stack
    measure(in_turn, precision, benchmark, kind, dtype, call, sizes, layers)
