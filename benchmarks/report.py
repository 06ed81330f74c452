"""Turns a saved benchmark run into tables and a picture.

pytest benchmarks --benchmark-json=run.json
python benchmarks/report.py run.json
python benchmarks/report.py run.json --compact small.json   # a copy to commit: no single times, no host name
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

PEER = "torch.nn"  # the ratios in the picture are of its times
PICTURED = ("forward", "training")
UNTIMED = ("memory",)  # of these tests only the figures count


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def in_words(seconds: float) -> str:
    """A time in milliseconds, to three figures."""
    ms = seconds * 1e3
    return f"{ms:9.0f} ms" if ms >= 100 else f"{ms:9.{2 - max(-3, math.floor(math.log10(ms)))}f} ms"


class Result(NamedTuple):
    """A row of a table; times in seconds."""

    case: str
    ours: float
    peers: dict[str, float]
    figures: dict[str, str]


def figures(info: dict[str, Any]) -> dict[str, str]:
    """What a test found out besides times: the numbers and words in its extra_info."""
    found = {k: v for k, v in info.items() if isinstance(v, (int, float, str))}
    return {k: v if isinstance(v, str) else f"{v:.3g}" if abs(v) < 1000 else f"{v:.0f}" for k, v in found.items()}


def read(path: Path) -> dict[str, Any]:
    try:
        run = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"report.py: cannot read {path}: {error}")
    if not any(b.get("extra_info") for b in run.get("benchmarks", [])):
        sys.exit(f"report.py: {path} holds no benchmark of these; expected what pytest --benchmark-json writes")
    return run


def test_and_case(name: str) -> tuple[str, str]:
    """A benchmark's table and row: "test_forward[LSTM-T1_B1_H128]" is in "forward LSTM" the row "T1_B1_H128"."""
    test, _, parameters = name.removeprefix("test_").removesuffix("]").partition("[")
    kind, _, case = parameters.rpartition("-")
    return f"{test} {kind}".strip(), case


def results_by_test(run: dict[str, Any]) -> dict[str, list[Result]]:
    tests: dict[str, list[Result]] = {}
    for b in run["benchmarks"]:
        test, case = test_and_case(b["name"])
        info = b["extra_info"]
        peers = {name: peer["median"] for name, peer in info.get("peers", {}).items()}
        tests.setdefault(test, []).append(Result(case, b["stats"]["median"], peers, figures(info)))
    return tests


def columns(rows: list[dict[str, Any]]) -> list[str]:
    """The keys of all rows, in order of appearance; some rows may lack some."""
    return list(dict.fromkeys(key for row in rows for key in row))


def machine(run: dict[str, Any]) -> str:
    info = run["machine_info"]
    built = info["rnnfast"]
    peers = "".join(f", {name} {version}" for name, version in info.get("peers", {}).items())
    libraries = f"torch {info['torch']}{peers}, Python {info['python_version']}"
    return (
        f"{info['cpu'].get('brand_raw', info['machine'])}, {info['threads']} threads; rnnfast {built['version']} "
        f"({built['isa_in_use']}), {libraries}; {run['datetime'][:10]}"
    )


def table(test: str, results: list[Result]) -> list[str]:
    """Markdown: medians in ms and ratios of medians, in which more than 1 means that rnnfast is faster."""
    timed = test.split()[0] not in UNTIMED
    peers, more = columns([r.peers for r in results]), columns([r.figures for r in results])
    name, times = test.replace("_", " "), [h for p in peers for h in (p, "ratio")]
    heads = [f"{name}, ms", "rnnfast", *times, *more] if timed else [name, *more]
    lines = [heads, ["---"] * len(heads)]
    for r in results:
        cells = [r.case.replace("_", " "), *([number(r.ours)] if timed else [])]
        for p in peers:
            cells += [number(r.peers[p]), f"**{r.peers[p] / r.ours:.2f}**"] if p in r.peers else ["", ""]
        lines.append(cells + [r.figures.get(name, "") for name in more])
    if peers:
        means = [geometric_mean([r.peers[p] / r.ours for r in results if p in r.peers]) for p in peers]
        lines.append(["geometric mean", "", *(c for m in means for c in ("", f"**{m:.2f}**")), *[""] * len(more)])
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def number(seconds: float) -> str:
    return in_words(seconds).removesuffix(" ms").strip()


def tables(run: dict[str, Any]) -> str:
    lines = [machine(run)]
    for test, results in results_by_test(run).items():
        lines += ["", *table(test, results)]
    return "\n".join(lines)


def time_and_ratio(result: Result | None) -> list[str]:
    return [number(result.ours), f"**{result.peers[PEER] / result.ours:.2f}**"] if result else ["", ""]


def overview(run: dict[str, Any]) -> str:
    """The main tests, a table each with the kinds of layer side by side: ours in ms, and the ratio to torch.nn."""
    lines = [machine(run)]
    by_test = results_by_test(run)
    for test in PICTURED:
        kinds = {name.split()[1]: results for name, results in by_test.items() if name.split()[0] == test}
        heads = [test, *(h for kind in kinds for h in (f"{kind}, ms", "ratio"))]
        found = [{r.case: r for r in results} for results in kinds.values()]
        rows = [
            [case.replace("_", " "), *(cell for of_kind in found for cell in time_and_ratio(of_kind.get(case)))]
            for case in columns(found)
        ]
        ratios = [[r.peers[PEER] / r.ours for r in results] for results in kinds.values()]
        means = ["geometric mean", *(c for of_kind in ratios for c in ("", f"**{geometric_mean(of_kind):.2f}**"))]
        table = [heads, ["---"] * len(heads), *rows, means]
        lines += ["", *("| " + " | ".join(cells) + " |" for cells in table)]
    return "\n".join(lines)


def draw(run: dict[str, Any], path: Path) -> bool:
    """One panel for each of the main tests: how many times faster than torch.nn, by shape. False: none ran."""
    tests = {test: results for test, results in results_by_test(run).items() if test.split()[0] in PICTURED}
    if not tests:
        return False
    from matplotlib.figure import Figure

    columns = min(3, len(tests))
    lines = -(-len(tests) // columns)
    figure = Figure(figsize=(5.5 * columns, 4.6 * lines + 0.6), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten()
    for panel in panels[len(tests) :]:
        panel.remove()
    for panel, (test, results) in zip(panels, tests.items(), strict=False):
        bars = panel.barh(range(len(results)), [r.peers[PEER] / r.ours for r in results], 0.8)
        panel.bar_label(bars, fmt=" %.2f", fontsize=8)
        panel.margins(x=0.15)
        panel.axvline(1, color="black", linewidth=1)
        panel.set_yticks(range(len(results)), [r.case.replace("_", " ") for r in results])
        panel.set(title=test, xlabel=f"time of {PEER} / time of rnnfast")
    panels[0].invert_yaxis()
    figure.suptitle(machine(run), fontsize=9)
    figure.savefig(path, dpi=110)
    return True


def compact(value: Any) -> Any:
    """A run without what a published record does not need: single times, the commit, the host's name."""
    if isinstance(value, dict):
        return {k: compact(v) for k, v in value.items() if k not in ("commit_info", "node", "data")}
    if isinstance(value, list):
        return [compact(v) for v in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="what pytest --benchmark-json wrote")
    parser.add_argument("--picture", type=Path, help="default: the run's name with .png")
    parser.add_argument("--compact", type=Path, metavar="OUT", help="write a small copy of the run, nothing else")
    parser.add_argument("--overview", action="store_true", help="only the main tests, kinds of layer side by side")
    options = parser.parse_args()
    run = read(options.run)
    if options.overview:
        print(overview(run))
        return
    if options.compact:
        options.compact.write_text(json.dumps(compact(run), separators=(",", ":")) + "\n")
        return
    print(tables(run))
    picture = options.picture or options.run.with_suffix(".png")
    if draw(run, picture):
        print(f"\npicture: {picture}", file=sys.stderr)


if __name__ == "__main__":
    main()
