"""Plans for GPUs, which need none."""

import pytest
import torch

import rnnfast

A100 = rnnfast.CudaLimits((8, 0), 108, 166912)
H100 = rnnfast.CudaLimits((9, 0), 132, 232448)
B200 = rnnfast.CudaLimits((10, 0), 148, 232448)
MIG_SLICE = rnnfast.CudaLimits((9, 0), 16, 232448)
T4 = rnnfast.CudaLimits((7, 5), 40, 65536)


def plan(cell, H, limits=H100, *, T=1024, B=16, **options):
    return rnnfast.plan(cell, T, B, H, device="cuda", limits=limits, tf32=options.pop("tf32", False), **options)


@pytest.mark.parametrize("limits", [A100, H100, B200, MIG_SLICE])
@pytest.mark.parametrize("pass_", ["forward", "bptt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cell", ["elman_tanh", "elman_relu", "lstm", "gru"])
def test_small_layers_are_one_launch(cell, dtype, pass_, limits):
    for H in (1, 17, 64):
        p = plan(cell, H, limits, dtype=dtype, pass_=pass_)
        assert p.schedule == "cta"
        assert p.arithmetic == ("mma" if dtype.itemsize == 2 else "fma")
        assert 0 < p.shared_memory <= limits.shared_memory
        assert p.threads % 32 == 0
        assert 0 < p.threads <= 512
        assert p.microseconds > 0


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
def test_what_fits_shared_memory_and_registers_is_one_launch(cell, gates, dtype, pass_):
    """Up to where W_hh takes all shared memory and more in registers, or a block's threads have no more units."""
    for H in range(8, 260, 8):
        p = plan(cell, H, dtype=dtype, pass_=pass_)
        state = 16 * 1024
        if p.schedule == "cta":
            assert p.shared_memory + p.weight_registers >= gates * H * H * dtype.itemsize
        elif "estimated" not in p.why:
            assert gates * H * H * dtype.itemsize > H100.shared_memory - state
            assert p.why == "W_hh does not fit the shared memory and registers of a block"


def test_registers_take_what_shared_memory_does_not():
    weights = 4 * 128 * 128 * 4  # an LSTM of 128 units in float32: more than shared memory
    p = plan("lstm", 128)
    assert weights > H100.shared_memory
    assert p.schedule == "cta"
    assert p.shared_memory + p.weight_registers >= weights
    assert plan("lstm", 128, A100).why == "W_hh does not fit the shared memory and registers of a block"


def test_what_decides():
    assert plan("lstm", 64, T4).why == "cta needs compute capability 8.0"
    assert plan("lstm", 64, P=32).why == "cta has no projected LSTM"
    assert plan("lstm", 0).why == "no units"
    assert plan("lstm", 1024).why == "W_hh does not fit the shared memory and registers of a block"
    assert plan("elman_tanh", 600, dtype=torch.bfloat16).schedule == "stepwise"
    assert plan("lstm", 64, tf32=True).arithmetic == "mma"
    assert plan("lstm", 64, dtype=torch.float64, tf32=True).arithmetic == "fma"
    assert plan("lstm", 64, G=2).blocks == 2 * plan("lstm", 64).blocks
    assert plan("lstm", 64, B=16, dtype=torch.bfloat16).tile == (4, 16)
    assert plan("lstm", 64, B=4096, dtype=torch.bfloat16).tile == (8, 16)  # fewer waves of blocks
    assert plan("lstm", 64, MIG_SLICE, B=512).microseconds > plan("lstm", 64, B=512).microseconds


def test_plans_in_words():
    assert str(plan("lstm", 128, dtype=torch.bfloat16)) == (
        "cta mma blocks=4 tile=4x16 threads=256 shared=34944 registers=98304 "
        "(W_hh fits the shared memory and registers of a block)"
    )
    assert repr(plan("lstm", 2048)).startswith("CudaPlan(stepwise (")


def test_without_limits_or_a_gpu():
    if torch.cuda.is_available() or not rnnfast._library.CUDA:
        pytest.skip("there is a GPU, or there are no CUDA kernels")
    with pytest.raises((RuntimeError, AssertionError)):
        rnnfast.plan("lstm", 1, 1, 1, device="cuda")
