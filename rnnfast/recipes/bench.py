"""The benchmark suite of a checkout."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from .._program import UserError, needs


def add_arguments(parser: Any) -> None:
    """The options of ``python -m rnnfast bench``: all are for pytest."""
    about = "for pytest, such as -k lstm or --benchmark-json=run.json"
    parser.add_argument("arguments", nargs="*", metavar="...", help=about)
    parser.rest = "arguments"


def suite() -> Path:
    """The folder of the benchmarks: here, or where the package was installed from."""
    places = [Path.cwd(), Path(__file__).resolve().parents[2]]
    for place in places:
        if (place / "benchmarks" / "test_forward.py").is_file():
            return place / "benchmarks"
    raise UserError(f"no benchmarks/ in {places[0]}: run it in a checkout of rnnfast, which alone has them")


def main(options: argparse.Namespace) -> int:
    """Runs pytest on the suite; returns its exit status."""
    folder = suite()
    needs("pytest_benchmark", "test")
    command = [sys.executable, "-m", "pytest", str(folder), *options.arguments]
    return subprocess.run(command, cwd=folder.parent, check=False).returncode


__all__ = ["add_arguments", "main"]
