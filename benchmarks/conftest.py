"""Measures ours and its peers in turn, within one process.

Each benchmark's row is rnnfast's; after each of its rounds every peer is timed once in the same way, so that
whatever else the machine does meets all of them. The peers' times stand in the benchmark's ``extra_info``, and
a table of ratios of medians closes the run. ``benchmarks/report.py`` reads the saved file.

RNNFAST_BENCH_SECONDS: time spent on each benchmark (default 2). RNNFAST_BENCH_THREADS: torch's threads.
"""

import os
import statistics
import time

import pytest
import torch
from report import geometric_mean, in_words

import rnnfast

SECONDS = float(os.environ.get("RNNFAST_BENCH_SECONDS", "2"))
MIN_ROUNDS, MAX_ROUNDS = 5, 200
# A round is so many calls that the clock and the loop around them do not count.
ROUND_SECONDS = 2e-4
RESULTS = pytest.StashKey[list]()


def pytest_configure(config):
    config.stash[RESULTS] = []
    if "RNNFAST_BENCH_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["RNNFAST_BENCH_THREADS"]))


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["node"] = ""  # records are published
    machine_info["torch"] = torch.__version__
    machine_info["threads"] = torch.get_num_threads()
    machine_info["rnnfast"] = rnnfast.build_info()


def seconds_for(call, calls):
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begin) / calls


@pytest.fixture
def in_turn(benchmark, request):
    """in_turn(ours, peers): times a function and each of a dict of others, round by round."""

    def measure(ours, peers):
        for call in (ours, *peers.values()):
            seconds_for(call, 2)
        each = [seconds_for(call, 2) for call in (ours, *peers.values())]
        calls = max(1, round(ROUND_SECONDS / min(each)))
        rounds = min(MAX_ROUNDS, max(MIN_ROUNDS, int(SECONDS / (sum(each) * calls))))
        times = {name: [] for name in peers}

        def time_peers(*args, **kwargs):
            for name, call in peers.items():
                times[name].append(seconds_for(call, calls))

        benchmark.pedantic(ours, teardown=time_peers, rounds=rounds, iterations=calls)
        if benchmark.disabled:
            return
        medians = {name: statistics.median(t) for name, t in times.items()}
        benchmark.extra_info["peers"] = {name: {"median": medians[name], "data": times[name]} for name in peers}
        request.config.stash[RESULTS].append((request.node.name, benchmark.stats.stats.median, medians))

    return measure


def pytest_terminal_summary(terminalreporter, config):
    results = config.stash[RESULTS]
    if not results:
        return
    terminalreporter.section("rnnfast and its peers, in turn: medians, and how many times faster rnnfast is")
    ratios = {}
    for test, ours, peers in results:
        line = f"{test:44} rnnfast {in_words(ours)}"
        for name, median in peers.items():
            ratios.setdefault((test.split("[")[0], name), []).append(median / ours)
            line += f"   {name} {in_words(median)}  x{median / ours:5.2f}"
        terminalreporter.write_line(line)
    for (test, name), values in ratios.items():
        terminalreporter.write_line(
            f"{test}: geometric mean x{geometric_mean(values):.2f} of {name}, {len(values)} shapes"
        )
