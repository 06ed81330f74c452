"""Exercise 1: an RNN of one's own, graded against torch.nn's."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._program import Program, Result, UserError, setting
from .grading import POINTS

SOLUTION = Path(__file__).with_name("own_rnn_solution.py")
MARKS = {"pass": "pass", "fail": "FAIL", "skipped": "-"}


@dataclass(frozen=True)
class OwnRNN(Program):
    """Grades a class MyRNN of your own against torch.nn.RNN; without --check, a solution.

    The file has a class ``MyRNN(input_size, hidden_size)``, a :class:`torch.nn.Module` whose
    ``forward(x, h_0=None)`` takes x of shape (B, T, I) and h_0 of shape (B, H) or (1, B, H) and returns the
    outputs (B, T, H) and the last state h_n. How it keeps its weights is its own affair.
    """

    section = "Exercise 1: Implement RNN from Scratch"
    examples = ("--check mine.py", "--json")

    check: Path | None = setting(None, "with your class MyRNN (default: a solution)", metavar="FILE")
    time_limit: float = setting(60.0, "seconds after which grading stops", least=1)

    def run(self) -> Result:
        """Grades it in a process of its own."""
        file = SOLUTION if self.check is None else self.check
        if not file.is_file():
            raise UserError(f"--check: {file} is no file")
        verdicts, remark = grade(file, self.time_limit)
        passed = sum(v["verdict"] == "pass" for v in verdicts)
        name = "a solution" if self.check is None else str(file)
        lines = [f"{name}, beside torch.nn.RNN in float64:"]
        for v in verdicts:
            lines.append(f"  {MARKS[v['verdict']]:5} {POINTS[v['point']]}")
            if v["remark"]:
                lines.append(f"        {v['remark']}")
        lines.append(f"{passed} of {len(POINTS)} points" + (f"; {remark}" if remark else ""))
        data: dict[str, Any] = {"file": file.name, "points": verdicts, "passed": passed, "of": len(POINTS)}
        return Result("\n".join(lines), data, ok=passed == len(POINTS))


def grade(file: Path, time_limit: float) -> tuple[list[dict[str, str]], str]:
    """A verdict for each point, and what ended grading early, if anything did."""
    with tempfile.TemporaryDirectory() as folder:
        report, printed = Path(folder) / "report", Path(folder) / "printed"
        package = str(Path(__file__).resolve().parents[3])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-m", f"{__package__}.grading", str(file.resolve()), str(report)]
        begin = time.monotonic()
        with printed.open("wb") as output:
            # In a session of its own, so that processes which the file starts can be ended with it.
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
            try:
                remark = _ended(child.wait(time_limit), printed)
            except subprocess.TimeoutExpired:
                remark = f"stopped after {time.monotonic() - begin:.0f} s: does a loop never end? (--time-limit)"
            finally:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        lines = report.read_text(encoding="utf-8").splitlines() if report.exists() else []
    verdicts = [json.loads(line) for line in lines]
    return _completed(verdicts, remark), remark


def _ended(status: int, printed: Path) -> str:
    """What a process's end says, if it is not as it should be."""
    if status == 0:
        return ""
    if status < 0:
        return f"the process was ended by {signal.Signals(-status).name}"
    last = printed.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"the process ended with status {status}" + (f": {last[-1]}" if last else "")


def _completed(verdicts: list[dict[str, str]], remark: str) -> list[dict[str, str]]:
    """With the point at which grading ended early, and those that it did not come to."""
    for name in list(POINTS)[len(verdicts) :]:
        ended = bool(remark) and all(v["verdict"] != "fail" or v["remark"] != remark for v in verdicts)
        verdict = (
            {"verdict": "fail", "remark": remark} if ended else {"verdict": "skipped", "remark": "not reached"}
        )
        verdicts.append({"point": name, **verdict})
    return verdicts


__all__ = ["OwnRNN", "grade"]
