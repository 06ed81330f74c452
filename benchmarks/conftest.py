"""Measures ours and its peers in turn, within one process.

Each benchmark's row is rnnfast's; after each of its rounds every peer is timed once in the same way, so that
whatever else the machine does meets all of them. The peers' times stand in the benchmark's ``extra_info``, beside
what else a test finds out, and a table of ratios of medians closes the run. ``benchmarks/report.py`` reads the
saved file.

RNNFAST_BENCH_SECONDS: time spent on each benchmark (default 2). RNNFAST_BENCH_THREADS: torch's threads.
RNNFAST_BENCH_COMPILE=1: test_forward has ``torch.compile`` of torch.nn's layer as a further peer; it takes minutes
to compile.
"""

import itertools
import math
import os
import statistics
import time
from types import MappingProxyType

import peers as other_libraries
import pytest
import roofline
import torch
from report import figures, geometric_mean, in_words, test_and_case

import rnnfast

SECONDS = float(os.environ.get("RNNFAST_BENCH_SECONDS", "2"))
MIN_ROUNDS, MAX_ROUNDS = 5, 200
# A round is so many calls, one after the other as a program makes them, that neither the clock nor the caches as
# the other library left them count for much.
ROUND_SECONDS = 2e-3
BLOCKS = 5  # of the rounds of peers that are timed apart
LONGEST_SPIN = 1.0
RESULTS = pytest.StashKey[list]()
NOTES = pytest.StashKey[list]()
PEAKS = pytest.StashKey[dict]()
VERSIONS = pytest.StashKey[dict]()


def pytest_configure(config):
    config.stash[RESULTS], config.stash[NOTES] = [], []
    if "RNNFAST_BENCH_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["RNNFAST_BENCH_THREADS"]))


def pytest_addoption(parser):
    parser.addoption(
        "--device", choices=["cpu", "cuda"], default="cpu", help="what is measured; cuda: test_cuda.py"
    )


def pytest_collection_modifyitems(config, items):
    # Last, for the kernels remember for a while that a machine is crowded.
    items.sort(key=lambda item: item.path.name == "test_contention.py")
    on_cuda = config.getoption("--device") == "cuda"
    others = [item for item in items if (item.path.name == "test_cuda.py") != on_cuda]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["node"] = ""  # records are published
    machine_info["torch"] = torch.__version__
    machine_info["threads"] = torch.get_num_threads()
    machine_info["rnnfast"] = rnnfast.build_info()
    if config.getoption("--device") == "cuda":
        machine_info["cuda"] = {
            "device": torch.cuda.get_device_name(),
            "multiprocessors": torch.cuda.get_device_properties(0).multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    if PEAKS in config.stash:
        machine_info["peaks"] = config.stash[PEAKS]
    if VERSIONS in config.stash:
        machine_info["peers"] = config.stash[VERSIONS]


@pytest.fixture
def notes(request):
    """Lines to be printed at the end of the run."""
    return request.config.stash[NOTES]


@pytest.fixture(scope="session")
def peaks(request):
    """What the machine can do at most (roofline.py), measured once."""
    try:
        found = roofline.peaks()
    except RuntimeError as error:
        pytest.skip(str(error))
    request.config.stash[PEAKS] = found
    request.config.stash[NOTES] += roofline.in_words(found)
    return found


@pytest.fixture(scope="session")
def versions(request):
    """The versions of the other libraries that are installed, by name."""
    request.config.stash[VERSIONS] = other_libraries.available()
    return request.config.stash[VERSIONS]


def wait_until_threads_sleep():
    """For threads that spin after a call slow what is timed next: ONNX Runtime's for 40 ms, torch's for 10."""
    give_up = time.perf_counter() + LONGEST_SPIN
    while time.perf_counter() < give_up:
        begin, busy = time.perf_counter(), time.process_time()
        time.sleep(5e-3)
        if time.process_time() - busy < 0.1 * (time.perf_counter() - begin):
            return
    raise RuntimeError(f"threads of this process are busy {LONGEST_SPIN} s after the last call")


def seconds_for(call, calls):
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begin) / calls


def rounds_and_calls(calls, seconds):
    """How many rounds of how many calls of each fit into a time; warms up."""
    each = [seconds_for(call, 2) for call in calls]
    if sum(each) < seconds:
        each = [seconds_for(call, 2) for call in calls]  # warm now
    repeat = max(1, round(ROUND_SECONDS / min(each)))
    return min(MAX_ROUNDS, max(MIN_ROUNDS, int(seconds / (sum(each) * repeat)))), repeat


@pytest.fixture
def in_turn(benchmark, request):
    """in_turn(ours, peers, share=1, apart={}): times a function and each of a dict of others, round by round.

    The peers apart, which have threads of their own, are timed in blocks of rounds, between which all threads go
    to sleep. Takes a share of RNNFAST_BENCH_SECONDS. Returns the rounds' times by name, ours as "rnnfast"; None
    under --benchmark-disable.
    """

    def measure(ours, peers, share=1, apart=MappingProxyType({})):
        rounds, calls = rounds_and_calls((ours, *peers.values(), *apart.values()), share * SECONDS)
        times = {name: [] for name in (*peers, *apart)}
        size, rounds_done = max(2, math.ceil(rounds / BLOCKS)), itertools.count(1)

        def time_apart():
            for name, call in apart.items():
                wait_until_threads_sleep()
                call()  # wakes its threads
                times[name] += [seconds_for(call, calls) for _ in range(size)]
            wait_until_threads_sleep()
            for call in peers.values():  # wakes torch's, by what goes before ours in every other round
                call()

        def time_peers(*args, **kwargs):
            for name, call in peers.items():
                times[name].append(seconds_for(call, calls))
            if apart and next(rounds_done) % size == 0:
                time_apart()

        benchmark.pedantic(ours, teardown=time_peers, rounds=rounds, iterations=calls)
        if benchmark.disabled:
            return None
        benchmark.extra_info["peers"] = {
            name: {"median": statistics.median(data), "data": data} for name, data in times.items()
        }
        # The test may yet add to extra_info.
        result = (request.node.name, benchmark.stats.stats.median, benchmark.extra_info)
        request.config.stash[RESULTS].append(result)
        return {"rnnfast": benchmark.stats.stats.data, **times}

    return measure


@pytest.fixture
def block():
    """block(call, share): times one function alone, in rounds like those of in_turn; returns their times."""

    def measure(call, share):
        rounds, calls = rounds_and_calls((call,), share * SECONDS)
        return [seconds_for(call, calls) for _ in range(rounds)]

    return measure


def ahead_of_peers(results):
    """Lines that say in which rows of test_peers with more than one step each peer is slower."""
    ratios = {}
    for test, ours, info in results:
        table, case = test_and_case(test)
        if table.startswith("peers") and not case.startswith("T1_"):
            for name, peer in info["peers"].items():
                ratios.setdefault(name, {})[f"{table.replace('_', ' ')} {case}"] = peer["median"] / ours
    for name, by_row in ratios.items():
        behind = [f"{row} x{ratio:.2f}" for row, ratio in by_row.items() if ratio <= 1]
        ahead = f"{len(by_row) - len(behind)} of {len(by_row)}"
        yield f"peers, T > 1: ahead of {name} in {ahead} rows; behind in {', '.join(behind) or 'none'}"


def pytest_terminal_summary(terminalreporter, config):
    say = terminalreporter.write_line
    results, notes = config.stash[RESULTS], config.stash[NOTES]
    if not (results or notes):
        return
    terminalreporter.section("rnnfast and its peers, in turn: medians, and how many times faster rnnfast is")
    ratios, slower = {}, {}
    for test, ours, info in results:
        line = f"{test:52} rnnfast {in_words(ours)}"
        for name, peer in info.get("peers", {}).items():
            ratio = peer["median"] / ours
            ratios.setdefault((test_and_case(test)[0], name), []).append(ratio)
            line += f"   {name} {in_words(peer['median'])}  x{ratio:5.2f}"
        line += "".join(f"   {name} {value}" for name, value in figures(info).items())
        if "chosen / best" in info:
            slower[test] = info["chosen / best"] - 1
            line += f"   ({slower[test]:+.1%}{', MORE THAN 10 %' if slower[test] > 0.1 else ''})"
        say(line)
    for (test, name), values in ratios.items():
        say(f"{test}: geometric mean x{geometric_mean(values):.2f} of {name}, {len(values)} shapes")
    if slower:
        worst = max(slower, key=slower.get)
        say(f"plans: the worst choice is {slower[worst]:+.1%} off the best forced plan, {worst}")
    for line in (*ahead_of_peers(results), *notes):
        say(line)
