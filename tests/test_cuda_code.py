"""What nvcc made of the CUDA kernels: registers, memory, instructions, for every GPU that was compiled for."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

import rnnfast

LIBRARY = Path(rnnfast.__file__).parent / "_cuda.so"
ARCHS = [arch.removesuffix("+PTX") for arch in str(rnnfast.build_info().get("cuda_archs", "")).split(",") if arch]
# Threads of the largest block times registers of a thread may be no more than a multiprocessor has.
REGISTERS = 65536
THREADS = {
    "step_kernel": 256,
    "row_kernel": 256,
    "prepare_kernel": 256,
    "double, rnnfast::FmaProduct": 384,
    "FmaProduct": 512,
}
THREADS["MmaProduct"] = 256
MMA = {
    "__half": "HMMA.16816.F32",
    "__nv_bfloat16": "HMMA.16816.F32.BF16",
    "float": "HMMA.1688.F32.TF32",
}


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


def demangled(names):
    if shutil.which("c++filt") is None:
        pytest.skip("c++filt is not installed; binutils has it")
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.fixture(scope="module", params=ARCHS or ["none"])
def arch(request):
    if not ARCHS:
        pytest.skip("rnnfast was built without CUDA")
    return "sm_" + request.param.replace(".", "")


def test_registers_and_local_memory(arch):
    found = cuobjdump("-res-usage", "-arch", arch)
    kernels = re.findall(r"Function (\S+):\s*REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", found)
    names = demangled([name for name, *_ in kernels])
    assert len(kernels) >= 80
    for name, (_, registers, stack, local) in zip(names, kernels, strict=True):
        threads = next(count for part, count in THREADS.items() if part in name)
        assert int(registers) * threads <= REGISTERS, name
        assert (int(stack), int(local)) == (0, 0), f"{name}: arrays or spilled registers in local memory"


def test_products_of_16_bits_and_of_tf32_are_tensor_core_instructions(arch):
    sass = cuobjdump("-sass", "-arch", arch)
    bodies = re.split(r"Function : ", sass)[1:]
    names = demangled([body.split("\n", 1)[0] for body in bodies])
    seen = 0
    for name, body in zip(names, bodies, strict=True):
        found = set(re.findall(r"HMMA[.A-Z0-9]*", body))
        product = re.search(r"MmaProduct<.*?, (\w+), \d> ?>", name)
        if product is None or arch == "sm_75":  # where cta kernels are empty
            assert not found, name
        else:
            assert found == {MMA[product.group(1)]}, name
            seen += 1
    assert seen == (0 if arch == "sm_75" else 2 * 8 * len(MMA))
