"""How crews of blocks hand on states: right as it is, and wrong where a part of it is taken away."""

import shutil

import pytest
from building import CSRC, HARNESS, HERE, compile_objects, link
from programs import execute

SANITIZERS = {"none": (), "thread": ("-fsanitize=thread", "-DCUDA_HOST_TSAN")}
SEEDS = range(12)
EXIT = "passing.send(n);", "passing.send(n);\n    if (rank == 1 && i + 2 == steps.end) return;"
# Of each fault the schedule, the file, and what is put in place of what.
FAULTS = {
    "no arrival": ("cluster", "cluster.cuh", "if (threadIdx.x == 0) expect_bytes", "if (false) expect_bytes"),
    "the other parity": ("cluster", "cluster.cuh", "(n - 1) >> 1", "(n + 1) >> 1"),
    "one buffer": ("cluster", "cluster.cuh", "(n & 1) * buffer_", "0 * buffer_"),
    "a buffer too early": ("cluster", "cluster.cuh", "((n + 1) & 1) * buffer_", "(n & 1) * buffer_"),
    "one slice": ("cluster", "cluster.cuh", "(n & 1) * slice_", "(n & 0) * slice_"),
    "no barrier before": ("cluster", "crew.cuh", "sync_block();\n    link_.publish", "link_.publish"),
    "a slice after the last": ("cluster", "crew.cuh", "if (i + 1 < steps.end) passing", "passing"),
    "no first barrier": ("cluster", "cluster.cuh", "ready() const { sync_cluster(); }", "ready() const {}"),
    "an exit before others are done": ("cluster", "crew.cuh", *EXIT),
    "no barrier before the product": ("scatter", "scatter.cuh", "sync_block();\n    product_", "product_"),
    "no barrier after the product": ("scatter", "scatter.cuh", "sync_block();\n    link_", "link_"),
    "one buffer of sums": ("scatter", "cluster.cuh", "((n + 1) & 1) * buffer_", "((n + 1) & 0) * buffer_"),
    "no waiting for marks": ("grid", "grid.cuh", "await_mark(v[i]", "if (false) await_mark(v[i]"),
    "no mark": ("grid", "grid.cuh", "= mark(n + 1);", "= 0;"),
    "the mark of the step before": ("grid", "grid.cuh", "mark(n), {", "mark(n - 1), {"),
    "an operand read too early": ("grid", "grid.cuh", "sync_block();\n    return", "return"),
    "one buffer in memory": ("grid", "grid.cuh", "& 1) * buffer_", "& 0) * buffer_"),
    "another rank's slices": ("clusters", "grid.cuh", "rank_ % shape.peers * vectors_", "0"),
    "slices for another rank": ("clusters", "grid.cuh", "rank_ / shape.peers * slice_", "0"),
    "no barrier before sums": (
        "clusters",
        "grid_of_clusters.cuh",
        "sync_block();\n    link_.sums()",
        "link_.sums()",
    ),
    "sums of the next step": ("clusters", "grid_of_clusters.cuh", "receive(n + 1", "receive(n"),
    "one buffer of clusters' sums": (
        "clusters",
        "cluster.cuh",
        "((n + 1) & 1) * buffer_",
        "((n + 1) & 0) * buffer_",
    ),
    "no barrier before slices": (
        "clusters",
        "grid_of_clusters.cuh",
        "sync_block();\n    link_.operands()",
        "link_.operands()",
    ),
    "an exit before sums have come": ("clusters", "crew.cuh", *EXIT),
    "no first barrier of clusters": ("clusters", "grid_of_clusters.cuh", "sums_.ready(); }", "}"),
}
# Seen by their results seldom.
RACES = ("one slice",)


@pytest.fixture(scope="module", params=SANITIZERS)
def program(request, tmp_path_factory):
    """program(replacement...): a function of a schedule and a seed, with kernels so changed."""
    flags = ["-O1", "-g1", "-DCUDA_HOST_STRAGGLERS", *SANITIZERS[request.param]]

    def build(*change):
        directory = tmp_path_factory.mktemp("exchange")
        sources = shutil.copytree(CSRC, directory / "csrc")
        if change:
            name, old, new = change
            text = (sources / "cuda" / name).read_text()
            assert old in text
            (sources / "cuda" / name).write_text(text.replace(old, new))
        shutil.copy(HERE / "exchange.cu", directory)
        objects = compile_objects([directory / "exchange.cu", *HARNESS], [f"-I{sources}", *flags], directory)
        path = link(objects, [f for f in flags if f.startswith("-fsanitize")], directory / "exchange")

        def run(schedule, seed):
            done = execute([path, schedule, seed])
            return done.stdout + done.stderr

        return run

    build.sanitizer = request.param
    return build


def test_right(program):
    run = program()
    for schedule in ("cluster", "scatter", "grid", "clusters"):
        for seed in SEEDS[:1]:
            assert run(schedule, seed) == "fine\n"


@pytest.mark.slow
def test_right_for_more_seeds(program):
    run = program()
    for schedule in ("cluster", "scatter", "grid", "clusters"):
        for seed in SEEDS[1:]:
            assert run(schedule, seed) == "fine\n"


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_wrong(program, fault):
    schedule, *change = FAULTS[fault]
    run = program(*change)
    said = [run(schedule, seed) for seed in SEEDS]
    if program.sanitizer == "thread" or fault not in RACES:
        assert any(text != "fine\n" for text in said)
