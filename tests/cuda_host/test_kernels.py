"""The CUDA kernels, run on the CPU, against the float64 reference."""

import random
from dataclasses import replace

import problems
import pytest
import torch
from kinds import KINDS as LAYERS
from kinds import make, random_hx, states
from problems import KINDS, TOLERANCE, check_against_oracle, draw, small_problems

import rnnfast
from rnnfast import _autograd
from rnnfast.reference import GATES

CLUSTERED = "grid of clusters"
SCHEDULES = ["stepwise", "cta", "cluster", "scatter", "grid", CLUSTERED]
# Blocks of a crew, and of each of its clusters.
CREWS = {"stepwise": [None], "cta": [None], "cluster": [2, 4], "scatter": [2, 4], "grid": [2, 3, 5]}
CREWS[CLUSTERED] = [(4, 2), (6, 2), (8, 4)]
DTYPES = list(TOLERANCE)


def serves(schedule, kind):
    """Whether a kind of problem has kernels of that schedule: all have stepwise ones, and where there are no gates
    nothing scatters."""
    return schedule == "stepwise" or kind in (problems.SCATTERING if schedule == "scatter" else problems.CELLS)


def served(kinds=problems.CELLS, schedules=SCHEDULES):
    return [(kind, schedule) for kind in kinds for schedule in schedules if serves(schedule, kind)]


def few(of):
    """Some of them, so that the tests take seconds."""
    return random.sample(list(of), 3)


def wish(operators, schedule, rows, crew, arithmetic=None):
    crew, cluster = crew if schedule == CLUSTERED else (crew, 1)
    operators.wish_cuda_plan("grid" if schedule == CLUSTERED else schedule, rows, crew, arithmetic, cluster)


def wish_any(operators, schedule, problem, crews=CREWS):
    """A plan of random sizes, of which a grid's members have threads for all rows of their units."""
    crew, rows = random.choice(crews[schedule]), random.choice([1, 2, 4])
    if schedule in ("grid", CLUSTERED):
        members, H = crew[0] if schedule == CLUSTERED else crew, problem.w_hh.shape[1] // GATES[problem.cell]
        most = problems.most_rows(H, members, problem.gates.dtype)
        rows = random.choice([n for n in (4, 8, 16, 32) if n <= most])
    wish(operators, schedule, rows, crew, random.choice([None, "mma"]))


def is_planned(operators, schedule):
    """Whether the latest pass, BPTT, ran by that schedule."""
    plan = operators.last_cuda_plan()
    found = CLUSTERED if plan.startswith("grid") and " cluster=" in plan else plan.split()[0]
    return found == schedule


@pytest.fixture(autouse=True)
def on_host(operators, monkeypatch):
    """Everything that asks for the operators gets those of the CUDA kernels."""
    operators.set_seed(torch.initial_seed() % 2**31)
    monkeypatch.setattr(problems, "op", operators)
    for name, operator in {"op": "recurrence", "op_bptt": "recurrence_bptt", "op_cell": "cell"}.items():
        monkeypatch.setattr(_autograd, name, getattr(operators, operator).default)
    yield operators
    operators.wish_cuda_plan(None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("kind", "schedule"), served(KINDS))
def test_options(on_host, kind, schedule, dtype):
    for problem in few(small_problems(kind, dtype)):
        wish_any(on_host, schedule, problem)
        check_against_oracle(problem)
        assert is_planned(on_host, "stepwise" if problem.is_stepwise else schedule)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("kind", "schedule"), served(schedules=SCHEDULES[1:]))
def test_many_problems(on_host, kind, schedule, dtype, seed):
    random.seed(seed)
    torch.manual_seed(seed)
    on_host.set_seed(seed)
    for problem in small_problems(kind, dtype):
        of_clusters = [2, 4, 8, 16]
        crews = {"cta": [None], "cluster": of_clusters, "scatter": of_clusters, "grid": [2, 3, 7]}
        wish_any(on_host, schedule, problem, {**CREWS, **crews})
        check_against_oracle(problem)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("schedule", "crew"), [("cta", None), ("cluster", 2), ("scatter", 4), ("grid", 3), (CLUSTERED, (6, 2))]
)
@pytest.mark.parametrize("kind", problems.CELLS)
def test_weights_in_registers_and_shared_memory(on_host, kind, dtype, schedule, crew):
    """More weights than registers hold, results of one to four tiles for a warp, units that do not fall evenly."""
    H = random.choice([52, 60] if dtype == torch.float64 else [100, 101, 128])
    wish(on_host, schedule, 2, crew)
    check_against_oracle(draw(2, 3, H, 1, dtype, cell=kind, layout="packed"))
    assert is_planned(on_host, schedule if serves(schedule, kind) else "cluster")
    assert int(on_host.last_cuda_plan().split("registers=")[1].split()[0]) > 0


@pytest.mark.parametrize(
    ("schedule", "crew"), [("stepwise", None), ("cta", None), ("cluster", 2), ("grid", 3), (CLUSTERED, (4, 2))]
)
@pytest.mark.parametrize("kind", problems.CELLS)
def test_tf32(on_host, kind, schedule, crew):
    """Products round to TF32, 10 bits of mantissa, where they are allowed to; in kernels of one launch as asked
    for, since without it layers as small as these are not slower."""
    wish(on_host, schedule, 4, crew, "mma")
    p = draw(4, 9, 60, dtype=torch.float32, cell=kind)  # four rows of it fit a block
    args = (p.gates, None, p.w_hh, None, None, p.bias, p.h0, p.c0, *p.options)
    exact, rounded = (on_host.recurrence(*args, precision=precision)[0] for precision in ("ieee", "tf32"))
    problems.assert_close(rounded, exact.double(), tolerance=2e-3)
    assert not torch.equal(exact, rounded)
    assert ("mma" in on_host.last_cuda_plan()) == (schedule != "stepwise")


@pytest.mark.parametrize("H", [200, 232])
def test_an_infinite_weight_stays_where_it_is(on_host, H):
    """Warps do not all have the same number of the operand's chunks; none multiplies another's weights."""
    on_host.wish_cuda_plan("cta", 1, None, "mma")
    p = draw(3, 2, H, dtype=torch.bfloat16, cell="elman_tanh")
    p.w_hh[0, 3, :] = float("inf")
    y = p.forward()[0].float()
    assert "mma" in on_host.last_cuda_plan()
    others = [unit for unit in range(H) if unit != 3]
    assert torch.isfinite(y[0, ..., others]).all()  # after one step; then NaN is all units'


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("schedule", "crew"), [("cta", 1), ("cluster", 4), ("scatter", 2), ("grid", 3), (CLUSTERED, (4, 2))]
)
@pytest.mark.parametrize("kind", problems.CELLS)
def test_rows_of_a_crew_do_not_change_the_bits(on_host, kind, dtype, schedule, crew):
    arithmetic = random.choice(["fma", "mma"])  # where 16 bits may have both
    sizes = "crew={} cluster={}".format(*crew) if schedule == CLUSTERED else f"crew={crew}"
    p = draw(4, 5, 37, 2, dtype, cell=kind, direction=2)
    seen = []
    for rows in (1, 4):
        wish(on_host, schedule, rows, crew, arithmetic)
        results = p.forward(saves=True)
        assert is_planned(on_host, "cluster" if schedule == "scatter" else schedule)
        seen.append([*results, *p.gradients(results).values()])
        assert f"{sizes} tile={rows}x" in on_host.last_cuda_plan()
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


@pytest.mark.parametrize("arithmetic", ["fma", "mma"])
@pytest.mark.parametrize(("schedule", "crew"), [("grid", 5), (CLUSTERED, (6, 2))])
@pytest.mark.parametrize("kind", problems.CELLS)
def test_rows_that_are_multiplied_one_part_after_the_other(on_host, kind, schedule, crew, arithmetic):
    """More than a tensor core's instruction or a thread's sums take, of which some are not there, by weights in
    registers and in shared memory: the bits of as many as these take."""
    H = random.choice([37, 66, 80])
    p = draw(3, 19, H, 1, torch.float32, cell=kind)
    args = (p.gates, None, p.w_hh, None, None, p.bias, p.h0, p.c0, *p.options)
    precision = "tf32" if arithmetic == "mma" else "ieee"
    seen = []
    for rows in (8, 16, 32) if H < 40 else (8, 16):  # 32 of as many units as a block has threads for
        wish(on_host, schedule, rows, crew, arithmetic)
        if arithmetic == "fma":
            check_against_oracle(p)
        seen.append(on_host.recurrence(*args, precision=precision)[0])
        assert is_planned(on_host, schedule)
        assert f" {arithmetic} " in on_host.last_cuda_plan()
        assert f" tile={rows}x" in on_host.last_cuda_plan()
    assert all(torch.equal(seen[0], other) for other in seen[1:])


@pytest.mark.parametrize(("schedule", "crew"), [("grid", 6), (CLUSTERED, (8, 4))])
@pytest.mark.parametrize("kind", ["elman_relu", "lstm"])
def test_crews_of_one_launch_after_the_other(on_host, kind, schedule, crew):
    """Where all of them do not fit at the same time: as if they did. Crews do not all take as many steps."""
    p = draw(4, 9, 19, 2, torch.float32, cell=kind, direction=2, layout="packed")
    seen = []
    for rows in (1, 8):
        wish(on_host, schedule, rows, crew)
        check_against_oracle(p)
        assert is_planned(on_host, schedule)
        assert (" launches=3 " in on_host.last_cuda_plan()) == (rows == 1)
        results = p.forward(saves=True)
        seen.append([*results, *p.gradients(results).values()])
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("kind", "schedule"), served())
def test_the_order_of_threads_does_not_matter(on_host, kind, dtype, schedule):
    wish(on_host, schedule, 4, CREWS[schedule][0])
    p = draw(4, 9, 37, 2, dtype, cell=kind, layout="packed", direction=2)
    seen = []
    for seed in range(4):
        on_host.set_seed(seed)
        results = p.forward(saves=True)
        seen.append([*results, *p.gradients(results).values()])
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))


@pytest.mark.parametrize(
    "options", [{}, dict(batch_first=True), dict(bidirectional=True, num_layers=2), dict(bias=False)]
)
@pytest.mark.parametrize("kind", LAYERS)
def test_layers(on_host, kind, options):
    """Projection of the input, biases and all gradients, as torch.nn has them."""
    theirs, ours = (make(kind, 5, 18, package=package, **options).double() for package in (torch.nn, rnnfast))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(7, 4, 5).double()
    for input in (x, x.transpose(0, 1), x[:1], x[:, :1], x.flip(0)[::2]):
        found = []
        for layer in (theirs, ours):
            own = input.clone(memory_format=torch.preserve_format).requires_grad_()
            output, last = layer(own)
            last = last[0] if isinstance(last, tuple) else last
            (output.sin().sum() + last.cos().sum()).backward()
            found.append([output, last, own.grad, *(p.grad for p in layer.parameters())])
            layer.zero_grad()
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert on_host.last_cuda_plan()


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_layers_side_by_side(on_host, kind, batch_first):
    """In chunks, of which each has its share of the GPU; cut from arrays whose rows lie further apart."""
    layer = make(kind, 5, 18, num_layers=3, batch_first=batch_first).double()
    x, found = torch.randn(7, 6, 5).double(), []
    for chunks in (1, 3):
        own = x.clone().requires_grad_()
        with rnnfast.forced_plan(chunks=chunks):
            output, last = layer(own)
        (output.sin().sum() + states(last)[0].cos().sum()).backward()
        found.append([output, *states(last), own.grad, *(p.grad for p in layer.parameters())])
        layer.zero_grad()
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert on_host.last_cuda_plan()


@pytest.mark.parametrize("lengths", [(3, 7, 1, 4), (2, 1), (3, 2, 1), (4, 4), (1,)])
@pytest.mark.parametrize("kind", LAYERS)
def test_packed_layers(on_host, kind, lengths):
    """Rows of lengths that fall evenly, too: where they end then lies at even distances, backwards."""
    theirs, ours = (
        make(kind, 5, 9, package=package, bidirectional=True).double() for package in (torch.nn, rnnfast)
    )
    ours.load_state_dict(theirs.state_dict())
    x = torch.nn.utils.rnn.pack_sequence([torch.randn(n, 5).double() for n in lengths], enforce_sorted=False)
    hx = random_hx(ours, 2, len(lengths))
    found = []
    for layer in (theirs, ours):
        own = [h.clone().requires_grad_() for h in states(hx)]
        output, last = layer(x, tuple(own) if len(own) > 1 else own[0])
        (output.data.sin().sum() + states(last)[0].cos().sum()).backward()
        found.append([output.data, *states(last), *(t.grad for t in (*own, *layer.parameters()))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cell", problems.CELLS)
def test_cell_operator(on_host, cell):
    n = GATES[cell]
    x, h, c = torch.randn(3, 4), torch.randn(3, 6), torch.randn(3, 6)
    w_ih, w_hh, b_ih, b_hh = torch.randn(6 * n, 4), torch.randn(6 * n, 6), torch.randn(6 * n), torch.randn(6 * n)
    found = on_host.cell(x, w_ih, w_hh, b_ih, b_hh, h, c if cell == "lstm" else None, cell)
    expected = _autograd.plain_cell(x, w_ih, w_hh, b_ih, b_hh, h, c, cell)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_packed_sequences_in_a_graph(on_host, monkeypatch):
    monkeypatch.setenv("CUDA_HOST_CAPTURED", "1")
    on_host.wish_cuda_plan("cta")
    p = draw(4, 9, 37, layout="packed")
    results = p.forward(saves=True)
    assert on_host.last_cuda_plan() == "stepwise (cta does not take packed sequences in a CUDA graph)"
    with pytest.raises(RuntimeError, match="packed sequences cannot be trained within a CUDA graph"):
        p.gradients(results)
    for layout in ("time", "batch"):
        check_against_oracle(draw(4, 9, 37, 2, layout=layout, direction=2))
        assert on_host.last_cuda_plan().startswith("cta")


def test_steps_that_lie_far_apart(on_host):
    on_host.wish_cuda_plan("cta")
    p = draw(1, 4, 37, layout="time")
    far = p.gates.as_strided(p.gates.shape, (2**28, *p.gates.stride()[1:]))
    check_against_oracle(replace(p, gates=far))
    p.forward()
    assert on_host.last_cuda_plan().startswith("cta")
    replace(p, gates=far).forward()
    assert on_host.last_cuda_plan() == "stepwise (steps lie too far apart for cta)"


def test_bad_arguments(on_host):
    p = draw(4, 9, 37)
    args = (p.gates, None, p.w_hh, None, None, None, None, None)
    with pytest.raises(RuntimeError, match="precision: got 'half', expected 'ieee' or 'tf32'"):
        on_host.recurrence(*args, "elman_tanh", precision="half")
    # In later releases all that an operator throws is a RuntimeError.
    kind = ValueError if torch.__version__ < (2, 14) else (ValueError, RuntimeError)
    with pytest.raises(kind, match="arithmetic: got 'mna', expected one of 'fma', 'mma'"):
        on_host.wish_cuda_plan("grid", None, None, "mna")
    with pytest.raises(
        kind, match="schedule: got 'gird', expected one of 'stepwise', 'cta', 'cluster', 'scatter', 'grid'"
    ):
        on_host.wish_cuda_plan("gird")
