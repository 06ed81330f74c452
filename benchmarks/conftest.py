"""Measures ours and its peers in turn, within one process.

Each benchmark's row is rnnfast's; after each of its rounds every peer is timed once in the same way, so that
whatever else the machine does meets all of them. The peers' times stand in the benchmark's ``extra_info``, beside
what else a test finds out, and a table of ratios of medians closes the run. ``benchmarks/report.py`` reads the
saved file.

RNNFAST_BENCH_SECONDS: time spent on each benchmark (default 2). RNNFAST_BENCH_THREADS: torch's threads.
RNNFAST_BENCH_COMPILE=1: test_forward has ``torch.compile(nn.RNN)`` as a further peer; it takes minutes to compile.
"""

import os
import statistics
import time

import pytest
import roofline
import torch
from report import figures, geometric_mean, in_words

import rnnfast

SECONDS = float(os.environ.get("RNNFAST_BENCH_SECONDS", "2"))
MIN_ROUNDS, MAX_ROUNDS = 5, 200
# A round is so many calls, one after the other as a program makes them, that neither the clock nor the caches as
# the other library left them count for much.
ROUND_SECONDS = 2e-3
RESULTS = pytest.StashKey[list]()
NOTES = pytest.StashKey[list]()
PEAKS = pytest.StashKey[dict]()


def pytest_configure(config):
    config.stash[RESULTS], config.stash[NOTES] = [], []
    if "RNNFAST_BENCH_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["RNNFAST_BENCH_THREADS"]))


def pytest_collection_modifyitems(items):
    # Last, for the kernels remember for a while that a machine is crowded.
    items.sort(key=lambda item: item.path.name == "test_contention.py")


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["node"] = ""  # records are published
    machine_info["torch"] = torch.__version__
    machine_info["threads"] = torch.get_num_threads()
    machine_info["rnnfast"] = rnnfast.build_info()
    if PEAKS in config.stash:
        machine_info["peaks"] = config.stash[PEAKS]


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
    """in_turn(ours, peers, share=1): times a function and each of a dict of others, round by round.

    Takes a share of RNNFAST_BENCH_SECONDS. Returns the rounds' times by name, ours as "rnnfast"; None under
    --benchmark-disable.
    """

    def measure(ours, peers, share=1):
        rounds, calls = rounds_and_calls((ours, *peers.values()), share * SECONDS)
        times = {name: [] for name in peers}

        def time_peers(*args, **kwargs):
            for name, call in peers.items():
                times[name].append(seconds_for(call, calls))

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


def pytest_terminal_summary(terminalreporter, config):
    say = terminalreporter.write_line
    results = config.stash[RESULTS]
    if not results:
        return
    terminalreporter.section("rnnfast and its peers, in turn: medians, and how many times faster rnnfast is")
    ratios, slower = {}, {}
    for test, ours, info in results:
        line = f"{test:52} rnnfast {in_words(ours)}"
        for name, peer in info.get("peers", {}).items():
            ratio = peer["median"] / ours
            ratios.setdefault((test.split("[")[0], name), []).append(ratio)
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
    for note in config.stash[NOTES]:
        say(note)
