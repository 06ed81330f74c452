"""The benchmark suite runs, and its report says what was measured."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(*command, **environment):
    environment = {**os.environ, **environment}
    return subprocess.run([sys.executable, *map(str, command)], env=environment, capture_output=True, text=True)


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason=f"no {BENCHMARKS}: not run from a checkout")
def test_a_run_and_its_report(tmp_path):
    record = tmp_path / "run.json"
    result = run(
        "-m",
        "pytest",
        BENCHMARKS,
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "T1_B1_H128 or T50_B32_H32",
        f"--benchmark-json={record}",
        RNNFAST_BENCH_SECONDS="0.02",
        RNNFAST_BENCH_THREADS="1",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "test_training: geometric mean x" in result.stdout
    saved = json.loads(record.read_text())
    assert saved["machine_info"]["threads"] == 1
    ratios = [b["extra_info"]["peers"]["torch.nn"]["median"] / b["stats"]["median"] for b in saved["benchmarks"]]
    assert len(ratios) == 4

    report = run(BENCHMARKS / "report.py", record)
    assert report.returncode == 0, report.stderr
    assert "1 threads; rnnfast" in report.stdout
    shown = [float(r) for r in re.findall(r"^\| T.* \*\*([\d.]+)\*\* \|$", report.stdout, re.M)]
    assert shown == pytest.approx(ratios, abs=0.006)
    assert (tmp_path / "run.png").stat().st_size > 1000


def test_a_file_that_is_no_run(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    report = run(BENCHMARKS / "report.py", tmp_path / "a.json")
    assert report.returncode != 0
    assert "holds no benchmark with peers" in report.stderr
