"""plan() says what will run, and it is what runs."""

import pytest
import torch
from problems import CELLS, draw

import rnnfast

op = torch.ops.rnnfast


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("T", "B", "H", "G"), [(1, 1, 1, 1), (3, 5, 40, 2), (50, 8, 64, 1), (4, 33, 128, 2)])
@pytest.mark.parametrize("cell", CELLS)
def test_the_plan_is_what_runs(T, B, H, G, dtype, threads, cell):
    torch.set_num_threads(threads)
    p = draw(T, B, H, G, dtype, cell=cell)
    question = dict(cell=cell, T=T, B=B, H=H, G=G, dtype=dtype)
    results = p.forward(saves=True)
    assert op.last_plan() == str(rnnfast.plan(**question, initial=True))
    p.bptt(results)
    assert op.last_plan() == str(rnnfast.plan(**question, pass_="bptt"))


def test_packed_sequences_are_planned_by_their_rows_on_average():
    """Rounded up."""
    p = draw(9, 60, 64, layout="packed")
    p.forward()
    rows = -(-len(p.gates) // 9)
    assert rows < 60
    assert op.last_plan() == str(rnnfast.plan("elman_tanh", 9, rows, 64, dtype=torch.float64, initial=True))


def test_plans_for_other_machines():
    big = dict(cell="elman_tanh", T=100, B=640, H=256)
    wide = rnnfast.plan(**big, threads=16, isa="avx512")
    assert (wide.schedule, wide.workers, wide.crew, wide.weights) == ("batch_split", 16, 1, "packed")
    assert (wide.tile, wide.isa) == ((6, 64), "avx512")
    assert rnnfast.plan(**big, threads=16, isa="avx2").tile == (6, 16)
    assert rnnfast.plan(**big, threads=16, isa="baseline", dtype=torch.float64).tile == (6, 4)


@pytest.mark.parametrize("pass_", ["forward", "bptt"])
def test_what_decides(pass_):
    def plan(T, B, H, **options):
        return rnnfast.plan("elman_tanh", T, B, H, isa="avx512", pass_=pass_, **options)

    few_rows = plan(100, 3, 512, threads=8)
    assert few_rows.schedule == "unit_split"
    assert few_rows.crew > 1
    assert "own units" in few_rows.why
    directions = plan(100, 1, 64, G=2, threads=2)
    assert directions.crew == 1, "each direction a core, nobody waits"
    tiny = plan(9, 4, 8, threads=16)
    assert tiny.workers == 1
    assert "too little work" in tiny.why
    assert plan(2, 1, 512, initial=True, threads=2).weights == "in_place"
    if pass_ == "forward":  # transposed, a matrix can be read in place at no cost
        assert plan(500, 64, 512, threads=2).weights == "packed"


def test_more_threads_than_processors_do_not_help():
    torch.set_num_threads(4 * rnnfast._library._processors())
    draw(30, 64, 128, dtype=torch.float32).forward()
    assert f"workers={rnnfast._library._processors()} " in op.last_plan()


@pytest.mark.parametrize(
    ("wish", "got"),
    [
        (dict(schedule="unit_split", workers=2), "unit_split workers=2 crew=2"),
        (dict(schedule="unit_split", workers=9), "unit_split workers=9 crew=3"),
        (dict(schedule="batch_split", workers=5), "batch_split workers=5 crew=1"),
        (dict(weights="in_place"), "weights=in_place"),
        (dict(weights="packed"), "weights=packed"),
        (dict(workers=1), "workers=1"),
    ],
)
def test_a_forced_plan_is_what_runs(wish, got):
    p = draw(4, 6, 150, dtype=torch.float32)
    with rnnfast.forced_plan(**wish):
        p.forward()
        assert got in op.last_plan()
    p.forward()
    assert op.last_plan() == str(rnnfast.plan("elman_tanh", 4, 6, 150, initial=True))


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (dict(schedule="gird"), "schedule: got 'gird', expected one of 'batch_split', 'unit_split'"),
        (dict(weights="loose"), "weights: got 'loose', expected one of 'packed', 'in_place'"),
        (dict(workers=0), "workers: got 0, expected a positive number"),
    ],
)
def test_wrong_wishes(wish, message):
    with pytest.raises((RuntimeError, ValueError), match=message), rnnfast.forced_plan(**wish):
        pass


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(cell="lstn"), "cell: got 'lstn', expected one of 'elman_tanh', 'elman_relu', 'lstm', 'gru'"),
        (dict(isa="sse"), "isa: got 'sse', expected one of 'baseline', 'avx2', 'avx512'"),
        (dict(pass_="back"), "pass: got 'back', expected one of 'forward', 'bptt'"),
    ],
)
def test_wrong_questions(changed, message):
    with pytest.raises(ValueError, match=message):
        rnnfast.plan(**{**dict(cell="elman_tanh", T=1, B=1, H=1), **changed})
