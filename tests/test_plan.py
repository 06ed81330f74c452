"""plan() says what will run, and it is what runs."""

import pytest
import torch
from problems import draw

import rnnfast

op = torch.ops.rnnfast


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("T", "B", "H", "G"), [(1, 1, 1, 1), (3, 5, 40, 2), (50, 8, 64, 1), (4, 33, 128, 2)])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_the_plan_is_what_runs(T, B, H, G, dtype, threads, nonlinearity):
    torch.set_num_threads(threads)
    p = draw(T, B, H, G, dtype, nonlinearity=nonlinearity)
    question = dict(cell=f"elman_{nonlinearity}", T=T, B=B, H=H, G=G, dtype=dtype)
    y, _ = p.forward(op.elman)
    assert op.last_plan() == str(rnnfast.plan(**question))
    p.bptt(op.elman_bptt, y)
    assert op.last_plan() == str(rnnfast.plan(**question, pass_="bptt"))


def test_packed_sequences_are_planned_by_their_longest():
    draw(9, 6, 64, layout="packed").forward(op.elman)
    assert op.last_plan() == str(rnnfast.plan("elman_tanh", 9, 6, 64, dtype=torch.float64))


def test_plans_for_other_machines():
    big = dict(cell="elman_tanh", T=100, B=64, H=512)
    wide = rnnfast.plan(**big, threads=16, isa="avx512")
    assert (wide.schedule, wide.workers, wide.tile, wide.isa) == ("batch_split", 16, (6, 64), "avx512")
    assert rnnfast.plan(**big, threads=16, isa="avx2").tile == (6, 16)
    assert rnnfast.plan(**big, threads=16, isa="baseline", dtype=torch.float64).tile == (6, 4)
    assert rnnfast.plan(**{**big, "B": 3}, threads=16).workers == 3
    assert rnnfast.plan("elman_relu", 1, 8, 8, threads=16).workers == 1
    assert "too little work" in rnnfast.plan("elman_relu", 1, 8, 8, threads=16).why


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(cell="lstn"), "cell: got 'lstn', expected one of 'elman_tanh', 'elman_relu'"),
        (dict(isa="sse"), "isa: got 'sse', expected one of 'baseline', 'avx2', 'avx512'"),
        (dict(pass_="back"), "pass: got 'back', expected one of 'forward', 'bptt'"),
    ],
)
def test_wrong_questions(changed, message):
    with pytest.raises(ValueError, match=message):
        rnnfast.plan(**{**dict(cell="elman_tanh", T=1, B=1, H=1), **changed})
