"""Loading, choosing and explaining the compiled libraries; what happens where none serves."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rnnfast
from rnnfast import _library

PACKAGE = Path(rnnfast.__file__).parent
TESTS = Path(__file__).parent


def python(code, folder=None, **environment):
    """Runs code in a fresh process, with the package of `folder` if given."""
    env = {**os.environ, **environment}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, cwd=folder or TESTS, capture_output=True, text=True, timeout=300)


@pytest.fixture
def copied_package(tmp_path):
    """A copy of the package without its compiled libraries, for Python to find first."""
    shutil.copytree(PACKAGE, tmp_path / "rnnfast", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return tmp_path


RUN_A_LAYER = """
import torch, rnnfast
layer = rnnfast.RNN(3, 4, bidirectional=True, dtype=torch.float64)
plain = torch.nn.RNN(3, 4, bidirectional=True, dtype=torch.float64)
plain.load_state_dict(layer.state_dict())
x = torch.randn(5, 2, 3, dtype=torch.float64)
torch.testing.assert_close(layer(x), plain(x))
layer(x)[0].sum().backward()
print(rnnfast.plan("elman_tanh", 5, 2, 4).schedule, rnnfast.build_info())
"""


ISAS = [("default", "baseline"), ("avx2", "avx2"), ("avx512", "avx512")]


@pytest.mark.parametrize(("capability", "isa"), ISAS)
def test_each_instruction_set(capability, isa):
    """What depends on the width of vectors once more on each library, fresh memory filled with garbage.

    On the one in use, which all other tests run on, a few. All of the operators' tests: the slow one below.
    """
    few = "options and 2-packed"
    in_use = rnnfast.build_info()["isa_in_use"] == isa
    run_operator_tests(
        capability, isa, few if in_use else f"tile_edges or math or rounded_weights or draw_the_same_bits or {few}"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "isa"), ISAS)
def test_every_schedule_of_each_instruction_set(capability, isa):
    run_operator_tests(capability, isa, "test")


def run_operator_tests(capability, isa, which):
    environment = dict(ATEN_CPU_CAPABILITY=capability, MALLOC_PERTURB_="173")
    if not (PACKAGE / f"_cpu_{isa}.so").exists():
        pytest.skip(f"no _cpu_{isa}.so in {PACKAGE}: not built for this machine's architecture")
    told = python(
        f"{RUN_A_LAYER}\nprint('offered', torch.backends.cpu.get_cpu_capability())", **environment
    ).stdout
    if f"offered {capability.upper()}" not in told:
        pytest.skip(f"this CPU does not have {capability.upper()}: {told}")
    assert f"'isa_in_use': '{isa}'" in told
    run_tests(OPERATOR_TESTS, f"({which}) and not any_shape", environment)


def test_bfloat16_without_the_processors_own_products():
    if not rnnfast.build_info()["bf16_dots"]:
        pytest.skip("this CPU does not have AVX512_BF16, or RNNFAST_BF16_DOTS=0: all other tests run without")
    environment = dict(RNNFAST_BF16_DOTS="0")
    assert "'bf16_dots': False" in python(RUN_A_LAYER, **environment).stdout
    run_tests(["test_bf16_dots.py", "test_recurrence.py"], "bf16_dots or (tile_edges and bfloat16)", environment)


OPERATOR_TESTS = ["test_recurrence.py", "test_math.py", "test_quantized.py", "test_noise.py", "test_bf16_dots.py"]


def run_tests(files, which, environment):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(TESTS / name for name in files)]
    command += ["-k", which]
    result = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


def test_without_libraries_it_warns_and_runs_the_reference(copied_package):
    result = python(RUN_A_LAYER, copied_package)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("fallback {'isa_in_use': None}")
    assert result.stderr.count("RuntimeWarning: rnnfast: no compiled library: looked for _ops.so, _cpu_") == 1
    assert f"in {copied_package}/rnnfast, found none. Build it with `pip install" in result.stderr


def test_without_libraries_strict_refuses_to_import(copied_package):
    result = python("import rnnfast", copied_package, RNNFAST_STRICT="1")
    assert result.returncode != 0
    assert "ImportError: rnnfast: no compiled library: looked for _ops.so, _cpu_" in result.stderr


def test_a_library_that_does_not_load_is_explained(copied_package):
    for name in ("_ops", "_cpu_baseline", "_cpu_avx2", "_cpu_avx512"):
        (copied_package / "rnnfast" / f"{name}.so").write_bytes(b"not a library")
    result = python("import rnnfast", copied_package)
    assert result.returncode != 0
    assert "ImportError: rnnfast: _ops.so was found in" in result.stderr
    assert f"does not load under torch {torch.__version__}" in result.stderr
    assert "rnnfast needs torch >= 2.10" in result.stderr


def test_a_dtype_without_kernel_falls_back_once_warned(monkeypatch):
    monkeypatch.setattr(_library, "_warned", set())
    gates, w_hh = torch.randn(3, 2, 4, dtype=torch.complex128), torch.randn(4, 4, dtype=torch.complex128)
    with pytest.warns(RuntimeWarning, match="no compiled kernel for device 'cpu' and dtype torch.complex128"):
        y, _ = rnnfast.functional.elman(gates, w_hh)
    torch.testing.assert_close(y[1], torch.tanh(gates[1] + y[0] @ w_hh.T))
    rnnfast.functional.elman(gates, w_hh)  # a second warning would be an error here
    assert rnnfast.plan("elman_tanh", 3, 2, 4, dtype=torch.complex128).schedule == "fallback"


def test_strict_forbids_the_fallback(monkeypatch):
    monkeypatch.setenv("RNNFAST_STRICT", "1")
    with pytest.raises(NotImplementedError, match="which RNNFAST_STRICT=1 forbids"):
        rnnfast.functional.elman(
            torch.zeros(3, 2, 4, dtype=torch.complex64), torch.zeros(4, 4, dtype=torch.complex64)
        )


def test_a_device_without_kernel_is_a_fallback():
    plan = rnnfast.plan("elman_tanh", 3, 2, 4, device="mps")
    assert plan.schedule == "fallback"
    assert "no compiled kernel for device 'mps'" in plan.why


def test_libraries_are_of_this_version_and_share_torchs_openmp():
    info = rnnfast.build_info()
    assert info["version"] == rnnfast.__version__
    assert info["isa_in_use"] in info["isas"].split(",")
    code = "import rnnfast; print(sum('libgomp' in l and 'r-xp' in l for l in open('/proc/self/maps')))"
    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc/self/maps on this platform")
    assert python(code).stdout.strip() == "1"


def test_importing_computes_nothing_and_needs_only_torch():
    code = "import sys, rnnfast; print([m for m in ('numpy', 'matplotlib', 'tqdm') if m in sys.modules])"
    torch_alone = python(code.replace("rnnfast", "torch", 1)).stdout
    assert python(code).stdout == torch_alone
