"""The CPU kernels under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer:

    python -m pytest -m slow tests/sanitizers

compiles driver.cpp with the kernels, without torch, and runs it on some hundred random small problems. A failure
names its problem, which `driver PROBLEMS SEED NUMBER` runs alone; RNNFAST_TEST_SEED gives the same problems again.
"""

import ast
import os
import platform
import subprocess
from pathlib import Path

import pytest
import torch
from programs import execute

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
KERNELS = [CSRC / "cpu" / f"{cell}.cpp" for cell in ("elman", "lstm", "gru")]
SOURCES = [HERE / "driver.cpp", CSRC / "plan.cpp", *KERNELS]
FLAGS = "-O1 -g1 -std=c++17 -fno-omit-frame-pointer -fno-sanitize-recover=all -ffp-contract=fast"
# libgomp is not instrumented: under ThreadSanitizer, std::thread takes its place (csrc/cpu/team.h).
SANITIZERS = {
    "address,undefined": "-fsanitize=address,undefined -fopenmp",
    "thread": "-fsanitize=thread -pthread -DRNNFAST_STD_THREADS",
}
PROBLEMS = {"address,undefined": 3000, "thread": 1500}
THREADS = 3  # more and fewer than the workers of a plan
# What torch calls the instruction sets of setup.py, from the least to the best.
CAPABILITIES = {"baseline": "DEFAULT", "avx2": "AVX2", "avx512": "AVX512"}


def available():
    """Instruction sets of this machine."""
    best = torch.backends.cpu.get_cpu_capability()
    if platform.machine().lower() not in ("x86_64", "amd64") or best not in CAPABILITIES.values():
        return ["baseline"]
    return list(CAPABILITIES)[: list(CAPABILITIES.values()).index(best) + 1]


def isa_flags(isa):
    """The value for `isa` in ISA_FLAGS of setup.py."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ISA_FLAGS":
            return ast.literal_eval(node.value)[isa] if len(available()) > 1 else ""
    raise LookupError("setup.py has no ISA_FLAGS")


def compile_program(path, sources, flags):
    command = [os.environ.get("CXX", "c++"), *flags.split(), f"-I{CSRC}", *map(str, sources), "-o", str(path)]
    return subprocess.run(command, capture_output=True, text=True)


def tail(text, lines=60):
    return "\n".join(text.splitlines()[-lines:])


def check(sanitizer, isa, directory):
    if not CSRC.is_dir():
        pytest.skip(f"the C++ sources are not at {CSRC}: not run from a checkout")
    if isa not in available():
        pytest.skip(f"this CPU has no {isa}, only {', '.join(available())}")
    trivial = directory / "trivial.cpp"
    trivial.write_text("int main() {}\n")
    linked = compile_program(directory / "trivial", [trivial], SANITIZERS[sanitizer])
    if linked.returncode != 0:
        pytest.skip(f"no runtime of -fsanitize={sanitizer}: {tail(linked.stderr, 3)}")

    driver = directory / "driver"
    compiled = compile_program(driver, SOURCES, f"{FLAGS} {SANITIZERS[sanitizer]} {isa_flags(isa)}")
    assert compiled.returncode == 0, tail(compiled.stderr)
    seed = torch.initial_seed()  # of conftest.py
    done = execute([driver, PROBLEMS[sanitizer], seed], OMP_NUM_THREADS=str(THREADS))
    assert done.returncode == 0, f"exit status {done.returncode} with seed {seed}\n{tail(done.stderr)}"
    assert done.stdout == f"{PROBLEMS[sanitizer]} problems\n"


@pytest.mark.slow
@pytest.mark.parametrize("isa", CAPABILITIES)
def test_no_bad_address_or_undefined_behaviour(isa, tmp_path):
    check("address,undefined", isa, tmp_path)


@pytest.mark.slow
def test_no_data_race(tmp_path):
    check("thread", available()[-1], tmp_path)
