"""The harness sees what goes wrong in kernels, and nothing where all is right."""

import pytest
from building import HARNESS, HERE, compile_objects, link
from programs import execute

SANITIZERS = {
    "none": (),
    "address": ("-fsanitize=address", "-DCUDA_HOST_ASAN"),
    "thread": ("-fsanitize=thread", "-DCUDA_HOST_TSAN"),
}
KERNELS = ["sum", "flag", "waiting", "barrier", "two_barriers", "shuffle", "overrun"]
SEEDS = range(3)


@pytest.fixture(scope="module", params=SANITIZERS)
def program(request, tmp_path_factory):
    flags = ["-O1", "-g1", *SANITIZERS[request.param]]
    directory = tmp_path_factory.mktemp("self")
    objects = compile_objects([HERE / "self.cu", *HARNESS], flags, directory)
    path = link(objects, [f for f in flags if f.startswith("-fsanitize")], directory / "self")

    def run(kernel, how, seed):
        done = execute([path, kernel, how, seed])
        return done.stdout + done.stderr

    run.sanitizer = request.param
    run.seeds = SEEDS[:1] if request.param == "thread" else SEEDS  # it takes a second to start
    return run


@pytest.mark.parametrize("kernel", KERNELS)
def test_right_kernels(program, kernel):
    for seed in program.seeds:
        assert program(kernel, "right", seed) == "fine\n"


def test_a_missing_barrier(program):
    said = [program("sum", "wrong", seed) for seed in SEEDS]
    if program.sanitizer == "thread":
        assert all("data race" in text for text in said)
    else:
        assert "wrong sum\n" in said


def test_a_flag_that_is_no_release(program):
    """Only ThreadSanitizer can see it: on this CPU every store is a release."""
    said = [program("flag", "wrong", seed) for seed in SEEDS]
    if program.sanitizer == "thread":
        assert any("data race" in text for text in said)
    else:
        assert said == ["fine\n"] * len(SEEDS)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("waiting", "deadlock: all threads wait, one at a flag"),
        ("barrier", "deadlock: block"),
        ("two_barriers", "others of its block at sync_block"),
        ("shuffle", "deadlock: block"),
    ],
)
def test_waiting_for_ever(program, kernel, message):
    for seed in program.seeds:
        assert message in program(kernel, "wrong", seed)


def test_too_little_shared_memory(program):
    said = program("overrun", "wrong", 1)
    assert ("heap-buffer-overflow" in said) == (program.sanitizer == "address")
