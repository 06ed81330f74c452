"""The CUDA kernels, run on the CPU, under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, by the
driver of tests/sanitizers, on random small problems."""

import pytest
import torch
from building import CSRC, HARNESS, HERE, KERNELS, compile_objects, link
from programs import execute

DRIVER = HERE.parent / "sanitizers"
SOURCES = [
    *KERNELS,
    CSRC / "cuda/plan_cuda.cpp",
    CSRC / "cuda/pass_info.cpp",
    CSRC / "plan.cpp",
    HERE / "run_host.cpp",
    *HARNESS,
    DRIVER / "driver.cpp",
]
SANITIZERS = {
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DCUDA_HOST_ASAN"),
    "thread": ("-fsanitize=thread", "-DCUDA_HOST_TSAN"),
}
PROBLEMS = {"address": 3000, "thread": 600}


@pytest.fixture(scope="module", params=SANITIZERS)
def program(request, tmp_path_factory):
    flags = ["-O1", "-g1", "-fno-omit-frame-pointer", *SANITIZERS[request.param], f"-I{DRIVER}"]
    directory = tmp_path_factory.mktemp(request.param)
    objects = compile_objects(SOURCES, flags, directory)
    path = link(objects, [*(f for f in flags if f.startswith("-fsanitize")), "-pthread"], directory / "driver")

    def run(problems):
        seed = torch.initial_seed()
        done = execute([path, problems, seed])
        assert done.returncode == 0, f"exit status {done.returncode} with seed {seed}\n{done.stderr[-3000:]}"
        assert done.stdout.endswith(" problems\n")

    run.problems = PROBLEMS[request.param]
    return run


@pytest.mark.slow
def test_random_problems(program):
    program(program.problems)
