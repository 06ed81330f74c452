"""Plans for GPUs, which need none."""

import pytest
import torch

import rnnfast
from rnnfast import _C

A100 = rnnfast.CudaLimits((8, 0), 108, 166912)
H100 = rnnfast.CudaLimits((9, 0), 132, 232448, clusters=(66, 33, 16, 7))
B200 = rnnfast.CudaLimits((10, 0), 148, 232448)
MIG_SLICE = rnnfast.CudaLimits((9, 0), 16, 232448, clusters=(8, 4, 2, 0))
T4 = rnnfast.CudaLimits((7, 5), 40, 65536)


def plan(cell, H, limits=H100, *, T=1024, B=16, **options):
    return rnnfast.plan(cell, T, B, H, device="cuda", limits=limits, tf32=options.pop("tf32", False), **options)


@pytest.mark.parametrize("limits", [A100, H100, B200, MIG_SLICE])
@pytest.mark.parametrize("pass_", ["forward", "bptt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cell", ["elman_tanh", "elman_relu", "lstm", "gru"])
def test_small_layers_are_one_launch(cell, dtype, pass_, limits):
    for H in (1, 17, 32 if dtype == torch.float64 else 64):
        p = plan(cell, H, limits, dtype=dtype, pass_=pass_)
        assert p.schedule == "cta"
        assert p.arithmetic == "fma"  # all weights in registers
        assert 0 < p.shared_memory <= limits.shared_memory
        assert p.threads % 32 == 0
        assert 0 < p.threads <= 512
        assert p.microseconds > 0


FITS = {
    "cta": "W_hh fits the shared memory and registers of a block",
    "cluster": "W_hh fits the blocks of a cluster",
    "scatter": "W_hh fits the blocks of a cluster",
    "grid": "W_hh fits the multiprocessors",
}


@pytest.mark.parametrize("limits", [A100, H100, B200, MIG_SLICE])
@pytest.mark.parametrize("pass_", ["forward", "bptt"])
@pytest.mark.parametrize(
    ("cell", "gates", "dtype"),
    [
        ("lstm", 4, torch.bfloat16),
        ("gru", 3, torch.float16),
        ("lstm", 4, torch.float32),
        ("elman_tanh", 1, torch.float32),
    ],
)
def test_weights_stay_on_the_chip(cell, gates, dtype, pass_, limits):
    """What plans of one launch say of their crews holds: there is room for all weights, and for all blocks."""
    for H in [*range(8, 260, 36), 384, 512, 700, 1024, 2048]:
        for B in (1, 16, 64, 300):
            p = plan(cell, H, limits, dtype=dtype, pass_=pass_, B=B)
            if p.schedule == "stepwise":
                continue
            rows, units = p.tile
            assert p.why == FITS[p.schedule]
            assert p.shared_memory <= limits.shared_memory
            assert p.crew * (p.shared_memory + p.weight_registers) >= gates * H * H * dtype.itemsize
            assert p.crew * units >= H
            crews, at_once = -(-B // rows), p.blocks // p.crew
            assert p.blocks == at_once * p.crew
            assert p.launches == -(-crews // at_once)
            assert rows * units <= p.threads
            assert (rows <= 8 and p.launches == 1) or p.schedule == "grid"
            assert p.schedule != "scatter" or (pass_ == "bptt" and gates > 1)
            if p.schedule in ("cluster", "scatter"):
                assert limits.capability >= (9, 0)
                assert p.crew in (2, 4, 8, 16)
                assert p.crew < 16 or limits is not MIG_SLICE
            if p.schedule == "grid":
                room = dict(zip((2, 4, 8, 16), limits.known_clusters(), strict=True))
                assert p.crew % p.cluster == 0
                assert p.blocks <= p.cluster * room.get(p.cluster, limits.multiprocessors)
                assert p.cluster == 1 or p.crew > p.cluster
            else:
                assert p.cluster == p.crew
            assert (p.schedule == "cta") == (p.crew == 1)


def test_larger_layers_take_more_blocks():
    schedules = [plan("lstm", H, dtype=torch.bfloat16).schedule for H in (64, 256, 512, 1024, 4096)]
    assert schedules == ["cta", "cluster", "cluster", "grid", "stepwise"]
    schedules = [plan("lstm", H, A100, dtype=torch.bfloat16).schedule for H in (64, 256, 512)]
    assert schedules == ["cta", "grid", "grid"]
    assert plan("lstm", 512, MIG_SLICE, dtype=torch.bfloat16).blocks == 16


def test_what_decides():
    assert plan("lstm", 64, T4).why == "cta needs compute capability 8.0"
    assert plan("lstm", 64, P=32).why == "cta has no projected LSTM"
    assert plan("lstm", 0).why == "no units"
    assert plan("lstm", 64, B=0).why == plan("lstm", 64, G=0).why == "no rows"
    assert plan("lstm", 4096).why == FITS["cta"].replace("fits", "does not fit")
    assert plan("lstm", 64, MIG_SLICE, B=4096).why == "a product for each step is estimated to be faster"
    assert plan("lstm", 256, tf32=True).arithmetic == "mma"
    assert plan("lstm", 64, tf32=True).arithmetic == "fma"  # all weights in registers, and nothing is rounded
    assert plan("lstm", 64, dtype=torch.float64, tf32=True).arithmetic == "fma"
    assert plan("lstm", 96, dtype=torch.bfloat16).arithmetic == "mma"
    assert plan("lstm", 64, G=2).blocks == 2 * plan("lstm", 64).blocks
    few, many = (plan("lstm", 64, B=B, dtype=torch.bfloat16).tile[0] for B in (16, 4096))
    assert few < many  # fewer turns of blocks
    assert plan("lstm", 64, MIG_SLICE, B=512).microseconds > plan("lstm", 64, B=512).microseconds
    # Crews of a grid that are not on the GPU at the same time come one after the other, while that is faster.
    one, two = (plan("lstm", 1024, B=B, dtype=torch.bfloat16) for B in (32, 64))
    assert (one.schedule, one.launches) == ("grid", 1)
    assert (two.schedule, two.launches, two.blocks) == ("grid", 2, one.blocks)
    assert two.microseconds == 2 * one.microseconds
    assert plan("lstm", 1024, B=600, dtype=torch.bfloat16).schedule == "stepwise"
    assert plan("lstm", 1024, G=2, tf32=True).launches == 2
    # Each reads the weights anew.
    assert plan("lstm", 1024, B=128, T=4, dtype=torch.bfloat16).schedule == "stepwise"
    assert plan("lstm", 64, T=0).why == "no steps"


NO_ROOM = "the blocks of a crew do not fit the GPU at the same time"


def bptt(H, limits=H100, *, dtype="float32", **options):
    wishes = dict(schedule="grid", pass_="bptt", tf32=True) | options
    return _C.plan_cuda("lstm", 1024, 16, H, 1, dtype, **limits.as_arguments(), **wishes)


def test_clusters_of_a_grid():
    """Each member then reads a fraction of the operand, and needs room for no more."""
    plain, some, more = (bptt(768, crew=48, rows=8, arithmetic="mma", cluster=n) for n in (1, 2, 4))
    assert (plain.cluster, some.cluster, more.cluster) == (1, 2, 4)
    assert plain.shared_memory > some.shared_memory > more.shared_memory
    for name in ("byte of a grid", "member of a grid"):
        assert plain.work[name] == 2 * some.work[name] == 4 * more.work[name]
    assert "exchange in a cluster" not in plain.work
    # Without them members have room for the operand of a few rows.
    assert (bptt(1024).cluster > 1, bptt(1024).launches) == (True, 1)
    assert bptt(1024, cluster=1).launches > 1
    for a100 in (A100, A100._replace(clusters=(54, 27, 12, 6))):  # that has none
        assert bptt(256, a100).cluster == 1
        assert bptt(256, a100, cluster=4).why == NO_ROOM
    assert bptt(768, cluster=3).why == bptt(768, cluster=4, crew=50).why == NO_ROOM
    assert bptt(768, cluster=4, pass_="forward").cluster == 4
    # Four clusters of four fit this GPU, and two crews of two.
    few, many = (bptt(256, MIG_SLICE, cluster=4, crew=8, rows=n) for n in (8, 4))
    assert (few.schedule, few.launches, many.launches) == ("grid", 1, 2)


def test_more_rows_than_are_multiplied_at_a_time():
    """Of a grid's crew, so that fewer crews need all weights."""
    few, many = (bptt(1024, cluster=4, rows=n, dtype="bfloat16") for n in (8, 16))
    assert (few.tile, many.tile) == ((8, 16), (16, 8))
    assert few.blocks == many.blocks == 128
    assert few.work["mma, issued"] == many.work["mma, issued"]  # half of the weights, twice
    assert bptt(1536, rows=8, dtype="bfloat16").launches == 2
    assert (bptt(1536, dtype="bfloat16").tile[0], bptt(1536, dtype="bfloat16").launches) == (16, 1)
    for schedule in ("cta", "cluster", "scatter"):
        assert bptt(16, schedule=schedule, rows=8).schedule == schedule
        assert bptt(16, schedule=schedule, rows=16).schedule == "stepwise"
    assert bptt(16, rows=16).schedule == "grid"
    assert bptt(16, rows=16, dtype="float64").schedule == "stepwise"


def test_a_share_of_a_gpu():
    """Others that run at the same time leave half, a quarter of it."""
    for H in (128, 512, 768, 1024):
        whole, half, quarter = (plan("lstm", H, dtype=torch.bfloat16, beside=n) for n in (0, 1, 3))
        for p, parts in ((whole, 1), (half, 2), (quarter, 4)):
            assert p.schedule != "grid" or p.blocks * parts <= H100.multiprocessors
        assert whole.microseconds <= half.microseconds <= quarter.microseconds
    with pytest.raises(ValueError, match="beside: got -1, expected no negative number"):
        plan("lstm", 64, beside=-1)


def test_clusters_by_default():
    assert rnnfast.CudaLimits((9, 0), 132, 232448).known_clusters() == (66, 33, 16, 7)
    assert A100.known_clusters() == (0, 0, 0, 0)
    assert MIG_SLICE.known_clusters() == (8, 4, 2, 0)


def test_plans_in_words():
    assert str(plan("lstm", 64, dtype=torch.bfloat16)) == (
        "cta fma blocks=16 crew=1 tile=1x64 threads=256 shared=768 registers=65536 "
        "(W_hh fits the shared memory and registers of a block)"
    )
    assert repr(plan("lstm", 4096)).startswith("CudaPlan(stepwise (")


def test_without_limits_or_a_gpu():
    if torch.cuda.is_available() or not rnnfast._library.CUDA:
        pytest.skip("there is a GPU, or there are no CUDA kernels")
    with pytest.raises((RuntimeError, AssertionError)):
        rnnfast.plan("lstm", 1, 1, 1, device="cuda")
