"""What nvcc made of the CUDA kernels: registers, memory, instructions, for every GPU that was compiled for."""

import os
import re
import shutil
import subprocess
import sysconfig
from functools import lru_cache
from pathlib import Path

import pytest

import rnnfast

LIBRARY = Path(rnnfast.__file__).parent / "_cuda.so"
ARCHS = [arch.removesuffix("+PTX") for arch in str(rnnfast.build_info().get("cuda_archs", "")).split(",") if arch]
# Threads of a block times registers of a thread may be no more than a multiprocessor has.
REGISTERS = 65536
THREADS = 256
MMA = {
    "__half": "HMMA.16816.F32",
    "__nv_bfloat16": "HMMA.16816.F32.BF16",
    "float": "HMMA.1688.F32.TF32",
}

IN_CLUSTERS = "InCluster|Scattering|InGridOfClusters"


def cuobjdump(*options):
    """Its output on our library; skips where it is not installed (pip install nvidia-cuda-cuobjdump)."""
    if not LIBRARY.exists():
        pytest.skip("rnnfast was built without CUDA")
    folders = [*sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin")), "/usr/local/cuda/bin"]
    path = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
    program = shutil.which("cuobjdump", path=path)
    if program is None or shutil.which("nvdisasm", path=path) is None:
        pytest.skip("cuobjdump and nvdisasm are not installed; the extra 'test' has them")
    done = subprocess.run(
        [program, *options, LIBRARY], capture_output=True, text=True, env=os.environ | {"PATH": path}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@lru_cache
def instructions(arch):
    """The instructions of each kernel, by its name."""
    bodies = re.split(r"Function : ", cuobjdump("-sass", "-arch", arch))[1:]
    return dict(zip(demangled([body.split("\n", 1)[0] for body in bodies]), bodies, strict=True))


def in_sass(arch):
    """9.0a as sm_90a."""
    return "sm_" + arch.replace(".", "")


def demangled(names):
    if shutil.which("c++filt") is None:
        pytest.skip("c++filt is not installed; binutils has it")
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def is_empty(name, arch):
    """Whether a kernel of one launch has no code, for want of the instructions."""
    return arch == "sm_75" or (arch == "sm_80" and re.search(IN_CLUSTERS, name) is not None)


# To read the instructions takes seconds; what the newest architecture has the one before has, too.
NOT_READ = ("7.5", "10.0")
ALL = ARCHS or ["none"]


@pytest.fixture(scope="module", params=[pytest.param(a, marks=[pytest.mark.slow] * (a in NOT_READ)) for a in ALL])
def read_arch(request):
    return named(request.param)


@pytest.fixture(scope="module", params=ALL)
def arch(request):
    return named(request.param)


def named(arch):
    if not ARCHS:
        pytest.skip("rnnfast was built without CUDA")
    return in_sass(arch)


def test_registers_and_local_memory(arch):
    found = cuobjdump("-res-usage", "-arch", arch)
    kernels = re.findall(r"Function (\S+):\s*REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", found)
    names = demangled([name for name, *_ in kernels])
    assert len(kernels) >= 80
    for name, (_, registers, stack, local) in zip(names, kernels, strict=True):
        assert int(registers) * THREADS <= REGISTERS, name
        assert (int(stack), int(local)) == (0, 0), f"{name}: arrays or spilled registers in local memory"


def test_products_of_16_bits_and_of_tf32_are_tensor_core_instructions(read_arch):
    seen = 0
    for name, body in instructions(read_arch).items():
        found = set(re.findall(r"HMMA[.A-Z0-9]*", body))
        product = re.search(r"CrewMma<.*?, (\w+), \(rnnfast::CudaSchedule\)\d+ ?>, ", name)
        if product is None or is_empty(name, read_arch):
            assert not found, name
        else:
            assert found == {MMA[product.group(1)]}, name
            seen += 1
    # Three cells in two passes, and where all that is multiplied is the member's own: BPTT of two cells.
    passes = {"sm_75": 0, "sm_80": 2 * 6}.get(read_arch, 4 * 6 + 2)
    assert seen == passes * len(MMA)


def test_clusters_write_to_each_other(read_arch):
    """Each step's stores and its barriers are the instructions that they should be."""
    clusters = [body for name, body in instructions(read_arch).items() if re.search(IN_CLUSTERS, name)]
    assert len(clusters) == 30 + 10 + 30
    for body in clusters:
        assert ("SYNCS.PHASECHK" in body) == ("UCGABAR_ARV" in body) == (read_arch not in ("sm_75", "sm_80"))
