"""The benchmark suite runs, and its report says what was measured."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason=f"no {BENCHMARKS}: not run from a checkout")

# At least one row of each test.
ROWS = [
    "test_bfloat16.py::test_bfloat16_forward[GRU-T50_B32_H32]",
    "test_bfloat16.py::test_bfloat16_training[LSTM-T1_B1_H128]",
    "test_bounds.py::test_recording[LSTM-T50_B32_H32]",
    "test_bounds.py::test_clipping[RNN-T50_B32_H32]",
    "test_contention.py::test_beside_another_forward[T1_B1_H128]",
    "test_contention.py::test_beside_another_training[T1_B1_H128]",
    "test_contention.py::test_twice_the_threads_forward[T50_B32_H32]",
    "test_contention.py::test_twice_the_threads_training[T50_B32_H32]",
    "test_forward.py::test_forward[RNN-T1_B1_H128]",
    "test_forward.py::test_forward[RNN-T50_B32_H32]",
    "test_forward.py::test_forward_grad[GRU-T50_B32_H32]",
    "test_forward.py::test_forward_more[RNN-T50_B32_H128_batch_first]",
    "test_forward.py::test_forward_more[LSTM-time_series_T12_B64_H4_I1]",
    "test_latency.py::test_latency_layer[LSTM-hx]",
    "test_latency.py::test_latency_cell[GRUCell-B1_H64]",
    "test_latency.py::test_latency_cell_training[LSTMCell-B1_H64]",
    "test_memory.py::test_memory[LSTM-T100_B32_H128]",
    "test_packed.py::test_packed[GRU-T200_B32_H128]",
    "test_peers.py::test_peers_forward[GRU-T50_B32_H32]",
    "test_peers.py::test_peers_training[LSTM-T50_B32_H32]",
    "test_plans.py::test_plans[T1_B1_H128_forward]",
    "test_plans.py::test_plans[T20_B1_H512_G2_bptt]",
    "test_roofline.py::test_roofline[T50_B32_H32_forward]",
    "test_roofline.py::test_roofline[T100_B1_H64_bptt]",
    "test_training.py::test_training[LSTM-T1_B1_H128]",
    "test_training.py::test_training[LSTM-T50_B32_H32]",
    "test_training.py::test_training_more[RNN-T50_B32_H128_2_layers]",
    "test_weights.py::test_bfloat16[RNN-T100_B1_H256]",
    "test_weights.py::test_int8[LSTM-T100_B1_H256]",
]


def run(*command, **environment):
    environment = {**os.environ, "RNNFAST_BENCH_SECONDS": "0.02", "RNNFAST_YIELD": "1", **environment}
    return subprocess.run([sys.executable, *map(str, command)], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run of some rows: what it printed, its record's path, and its benchmarks by table."""
    record = tmp_path_factory.mktemp("benchmarks") / "run.json"
    rows = [BENCHMARKS / row for row in ROWS]
    options = ("-q", "-p", "no:cacheprovider", f"--benchmark-json={record}")
    result = run("-m", "pytest", *rows, *options, RNNFAST_BENCH_THREADS="2")
    assert result.returncode == 0, result.stdout + result.stderr
    tests = {}
    for benchmark in json.loads(record.read_text())["benchmarks"]:
        test, kind = re.match(r"test_(\w+)\[(?:(\w+)-)?", benchmark["name"]).groups(default="")
        tests.setdefault(f"{test} {kind}".strip(), []).append(benchmark)
    return result.stdout, record, tests


@pytest.fixture(scope="module")
def report(measured):
    result = run(BENCHMARKS / "report.py", measured[1])
    assert result.returncode == 0, result.stderr
    return result.stdout


def ratio(benchmark):
    return benchmark["extra_info"]["peers"]["torch.nn"]["median"] / benchmark["stats"]["median"]


def table_rows(report, head):
    """The cells of a table's rows, its head's first."""
    found = re.search(rf"^\| {head}.*(?:\n\|.*)*", report, re.M)[0].splitlines()
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in found if "---" not in line]


def test_ratios(measured, report):
    output, record, tests = measured
    assert "training LSTM: geometric mean x" in output
    assert json.loads(record.read_text())["machine_info"]["threads"] == 2
    assert "2 threads; rnnfast" in report
    for test in ("forward RNN", "training LSTM", "latency_cell_training LSTMCell", "twice_the_threads_forward"):
        head, *rows, mean = table_rows(report, test.replace("_", " ") + ", ms")
        assert head[1:4] == ["rnnfast", "torch.nn", "ratio"]
        assert [float(row[3]) for row in rows] == pytest.approx([ratio(b) for b in tests[test]], abs=0.006)
        assert mean[0] == "geometric mean"
    assert (record.parent / "run.png").stat().st_size > 1000


def test_plans(measured, report):
    output, _, tests = measured
    assert "plans: the worst choice is" in output
    head, *rows = table_rows(report, "plans, ms")
    assert head[2:] == ["chosen", "best forced", "chosen / best"]
    for row, benchmark in zip(rows, tests["plans"], strict=True):
        info = benchmark["extra_info"]
        best = min(info["forced"], key=lambda plan: info["forced"][plan]["median"])
        assert row[3] == best
        assert info["chosen / best"] == pytest.approx(
            benchmark["stats"]["median"] / info["forced"][best]["median"]
        )


def test_roofline(measured, report):
    _, record, tests = measured
    peaks = json.loads(record.read_text())["machine_info"]["peaks"]
    assert set(peaks["flop/s"]) == set(peaks["bytes/s"]) == {"1", "2"}
    info = tests["roofline"][0]["extra_info"]
    assert info["bound by"] == "multiply-adds", "4 KB are read from L1"
    flop = 2 * 50 * 32 * 32 * 32
    assert info["GF/s"] == pytest.approx(flop / 1e9 / tests["roofline"][0]["stats"]["median"])
    assert info["peers"]["floor"]["median"] > 0
    assert "bound by" in table_rows(report, "roofline, ms")[0]


def test_contention(measured, report):
    for test in ("forward", "training"):
        (benchmark,) = measured[2][f"beside_another_{test}"]
        assert benchmark["extra_info"]["p95_over_one_worker"] > 0
        assert table_rows(report, f"beside another {test}")[0][-1] == "p95_over_one_worker"


def test_peers(measured, report):
    """Those that are installed; the others are named."""
    output, record, tests = measured
    columns = {"forward GRU": ["ONNX Runtime", "JAX"], "training LSTM": ["JAX"]}
    versions = json.loads(record.read_text())["machine_info"]["peers"]
    for name in ["ONNX Runtime", "JAX"]:
        assert (f"{name} {versions[name]}" in report) if name in versions else (f"{name}: left out" in output)
    for test, names in columns.items():
        installed = [name for name in names if name in versions]
        if installed:
            assert table_rows(report, f"peers {test}, ms")[0][4::2] == installed
            assert set(tests[f"peers_{test}"][0]["extra_info"]["peers"]) == {"torch.nn", *installed}
            assert all(re.search(rf"T > 1: ahead of {name} in \d of \d rows", output) for name in installed)


def test_packed(measured):
    (benchmark,) = measured[2]["packed GRU"]
    info = benchmark["extra_info"]
    assert 0.57 <= info["valid"] <= 0.65
    padded = info["peers"]["rnnfast padded"]["median"]
    expected = benchmark["stats"]["median"] / (info["valid"] * padded)
    assert info["packed / (valid x padded)"] == pytest.approx(expected)


def test_memory(measured, report):
    output, _, tests = measured
    if "memory LSTM" not in tests:
        pytest.skip("/proc/self/clear_refs cannot be written")
    info = tests["memory LSTM"][0]["extra_info"]
    y = 4 * 100 * 32 * 128
    for step in ("first step", "later steps"):
        assert info[f"{step}, MB"] > y / 1e6, "the output at least"
        assert info[f"{step} / torch.nn"] == pytest.approx(info[f"{step}, MB"] / info[f"torch.nn {step}, MB"])
    assert "memory LSTM T100_B32_H128: first step, MB" in output
    assert table_rows(report, "memory LSTM")[0][1] == "first step, MB", "no time"


def test_compact(measured, report, tmp_path):
    small = tmp_path / "small.json"
    result = run(BENCHMARKS / "report.py", measured[1], "--compact", small)
    assert result.returncode == 0, result.stderr
    text = small.read_text()
    assert not re.search('"(data|node|commit_info)":', text)
    assert len(text) < measured[1].stat().st_size / 3
    of_small = run(BENCHMARKS / "report.py", small)
    assert of_small.stdout == report


def test_overview(measured):
    result = run(BENCHMARKS / "report.py", measured[1], "--overview")
    assert result.returncode == 0, result.stderr
    head, *rows, mean = table_rows(result.stdout, "training")
    assert head[1:] == ["LSTM, ms", "ratio"]
    assert [float(row[2]) for row in rows] == pytest.approx(
        [ratio(b) for b in measured[2]["training LSTM"]], abs=0.006
    )
    assert mean[0] == "geometric mean"


def test_the_committed_record(tmp_path):
    committed = BENCHMARKS / "results" / "cpu.json"
    result = run(BENCHMARKS / "report.py", committed, "--picture", tmp_path / "a.png")
    assert result.returncode == 0, result.stderr
    assert len(table_rows(result.stdout, "forward LSTM, ms")) == 13


def test_spread(tmp_path):
    record = tmp_path / "spread.json"
    result = run(BENCHMARKS / "spread.py", 2, "--json", record, "-k", "T1_B1_H128")
    assert result.returncode == 0, result.stderr
    head, *rows = table_rows(result.stdout, "training LSTM, ratios of 2 processes")
    assert head[1:] == ["least", "median", "largest"]
    ratios = json.loads(record.read_text())["ratios"]["training LSTM"]
    assert list(ratios) == ["T1_B1_H128", "geometric mean"]
    for row, (least, largest) in zip(rows, map(sorted, ratios.values()), strict=True):
        assert [float(row[1]), float(row[3])] == pytest.approx([least, largest], abs=0.006)


def test_a_file_that_is_no_run(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    report = run(BENCHMARKS / "report.py", tmp_path / "a.json")
    assert report.returncode != 0
    assert "holds no benchmark of these" in report.stderr


@pytest.mark.slow
def test_applications_with_both_layers(tmp_path):
    record = tmp_path / "applications.json"
    result = run(BENCHMARKS / "applications.py", "caption", "--seconds", "1", "--json", record)
    assert result.returncode == 0, result.stdout + result.stderr
    row = json.loads(record.read_text())["applications"]["caption"]
    assert row["ratio"] == pytest.approx(row["seconds, torch"] / row["seconds, rnnfast"])
    assert 0 < row["recurrent share, rnnfast"] < row["recurrent share, torch"] + 0.2 < 1
    assert "recurrent share, torch" in result.stdout.splitlines()[0]


def test_cycles_of_gpus_are_fitted_to_what_was_measured(tmp_path):
    """Times made of other cycles than the planner's give these back."""
    pytest.importorskip("scipy")
    _C = pytest.importorskip("rnnfast._C")
    now = _C.cuda_work_cycles()
    changed = {"gate": 0.6, "mma, issued": 1.5, "exchange in a grid": 2}
    true = now | {name: now[name] * factor for name, factor in changed.items()}
    limits = dict(capability=(9, 0), multiprocessors=132, shared_memory=232448, clusters=None)
    rows = []
    for kind, dtype, B, H in itertools.product(("LSTM", "GRU"), ("bf16", "fp32"), (1, 16), (64, 128, 256, 512)):
        cell, of = {"LSTM": ("lstm", 4), "GRU": ("gru", 3)}[kind], {"bf16": "bfloat16", "fp32": "float32"}[dtype]
        for schedule, crew, tile in itertools.product(("cta", "cluster", "grid"), (1, 2, 8, 16, 32), (1, 2, 8)):
            wish = dict(schedule=schedule, rows=tile, crew=crew, cluster=1, arithmetic=None)
            known = dict(capability=90, multiprocessors=132, shared_memory=232448, clusters=(66, 33, 16, 7))
            plan = _C.plan_cuda(cell[0], 256, B, H, 1, of, **known, **wish)
            if plan.schedule == schedule:
                cycles = sum(count * true[name] for name, count in plan.work.items())
                products = B * cell[1] * H**2 / (150e6 if dtype == "bf16" else 20e6)
                case = dict(kind=kind, dtype=dtype, B=B, H=H, what="forward", wanted=str(plan), wish=wish)
                rows.append(case | dict(us=cycles / 1700 + products, right=True))
    record = tmp_path / "tune.json"
    record.write_text(json.dumps({"device": "none", "limits": limits, "T": 256, "rows": rows}))
    result = run(BENCHMARKS / "fit_cuda.py", record)
    assert result.returncode == 0, result.stderr
    fitted = dict(re.findall(r"^  (.+?) +now .* fitted +(\S+)", result.stdout, re.MULTILINE))
    for name in changed:
        assert float(fitted[name]) == pytest.approx(true[name], rel=0.1)
    before, after = re.findall(r"^(?:now|fitted): ([0-9.]+)% off", result.stdout, re.MULTILINE)
    assert float(after) < 0.1 * float(before)
    record.write_text(json.dumps({"device": "none", "limits": limits, "T": 256, "rows": []}))
    result = run(BENCHMARKS / "fit_cuda.py", record)
    assert result.stderr == "record: expected rows of plans of one launch with right results, found none\n"
