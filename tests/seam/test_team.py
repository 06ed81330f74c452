"""Shares are done once each, in order, whoever comes; a crowded machine is noticed."""

import ctypes
import random

import pytest


@pytest.fixture(scope="module")
def library(compiled):
    library = compiled("team.cpp")
    library.run_crew.restype = ctypes.c_int64
    return library


def run_crew(library, members, rounds, threads):
    """threads: (member, delay in us) of each."""
    member, delay = zip(*threads, strict=True)
    ints = ctypes.c_int * len(threads)
    return library.run_crew(members, ctypes.c_int64(rounds), len(threads), ints(*member), ints(*delay))


@pytest.mark.parametrize("members", [1, 2, 3, 8])
@pytest.mark.parametrize("rounds", [1, 2, 500])
def test_a_full_crew(library, members, rounds):
    for _ in range(5):
        assert run_crew(library, members, rounds, [(i, 0) for i in range(members)]) == 0


@pytest.mark.parametrize("members", [2, 4])
def test_one_alone_does_everything(library, members):
    assert run_crew(library, members, 300, [(members - 1, 0)]) == 0


def test_late_ones_join_and_those_after_the_end_find_nothing_to_do(library):
    for delay in (50, 500, 3000, 100_000):
        assert run_crew(library, 3, 20_000, [(0, 0), (1, delay), (2, delay // 2)]) == 0


def test_several_threads_as_one_member(library):
    for _ in range(5):
        threads = [(random.randrange(3), random.choice([0, 0, 100])) for _ in range(6)]
        assert run_crew(library, 3, 2000, threads) == 0


def crowded(library, *work):
    """work: (milliseconds that it takes, milliseconds expected; None: not watched)."""
    took = (ctypes.c_double * len(work))(*[t for t, _ in work])
    expected = (ctypes.c_double * len(work))(*[-1 if e is None else e for _, e in work])
    result = (ctypes.c_int * len(work))()
    library.run_crowding(len(work), took, expected, result)
    return [bool(r) for r in result]


def test_what_takes_far_longer_than_expected_shows_a_crowd_for_a_while(library):
    assert crowded(library, (0, 0.01), (8, 0.01), (20, None), (60, None)) == [False, True, True, False]


def test_what_takes_long_because_it_is_much_is_no_crowd(library):
    assert crowded(library, (20, 15)) == [False]


def test_the_while_doubles_as_long_as_it_stays_crowded(library):
    assert crowded(library, (8, 0.01), (60, None), (8, 0.01), (60, None), (60, None)) == [
        True,
        False,
        True,
        True,
        False,
    ]
