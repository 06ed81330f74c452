"""How much the ratios of the eleven shapes vary from process to process.

python benchmarks/spread.py 5 --json spread.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from report import PEER, geometric_mean, machine, read, results_by_test

BENCHMARKS = Path(__file__).parent
TESTS = ("test_forward.py::test_forward", "test_training.py::test_training")
MEAN = "geometric mean"


def fresh_run(arguments: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "run.json"
        tests = [f"{BENCHMARKS / test}" for test in TESTS]
        command = [sys.executable, "-m", "pytest", *tests, "-q", f"--benchmark-json={record}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"spread.py: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return read(record)


def ratios(run: dict[str, Any]) -> dict[str, dict[str, float]]:
    """By test and shape, with each test's geometric mean at its end."""
    by_test = {}
    for test, results in results_by_test(run).items():
        by_shape = {r.case: r.peers[PEER] / r.ours for r in results}
        by_test[test] = {**by_shape, MEAN: geometric_mean(list(by_shape.values()))}
    return by_test


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="What else is given goes to pytest.",
    )
    parser.add_argument("processes", type=int)
    parser.add_argument("--json", type=Path, help="write the ratios of all processes")
    options, for_pytest = parser.parse_known_args()
    if options.processes < 1:
        parser.error(f"processes: got {options.processes}, expected at least 1")
    runs = [fresh_run(for_pytest) for _ in range(options.processes)]
    of_each = [ratios(run) for run in runs]
    print(machine(runs[0]))
    all_ratios: dict[str, dict[str, list[float]]] = {}
    for test, shapes in of_each[0].items():
        all_ratios[test] = {shape: [one[test][shape] for one in of_each] for shape in shapes}
        print(
            f"\n| {test}, ratios of {options.processes} processes | least | median | largest |\n|---|---|---|---|"
        )
        for shape, values in all_ratios[test].items():
            figures = " | ".join(f"{f(values):.2f}" for f in (min, statistics.median, max))
            print(f"| {shape.replace('_', ' ')} | {figures} |")
    if options.json:
        rounded = {
            test: {shape: [round(v, 4) for v in values] for shape, values in shapes.items()}
            for test, shapes in all_ratios.items()
        }
        record = {"machine": machine(runs[0]), "ratios": rounded}
        options.json.write_text(json.dumps(record, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
