"""Turns a saved benchmark run into a table and a picture.

pytest benchmarks --benchmark-json=run.json
python benchmarks/report.py run.json
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def in_words(seconds: float) -> str:
    """A time in milliseconds, to three figures."""
    ms = seconds * 1e3
    return f"{ms:9.0f} ms" if ms >= 100 else f"{ms:9.{2 - max(-3, math.floor(math.log10(ms)))}f} ms"


def read(path: Path) -> dict[str, Any]:
    try:
        run = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"report.py: cannot read {path}: {error}")
    if not any("peers" in b.get("extra_info", {}) for b in run.get("benchmarks", [])):
        sys.exit(f"report.py: {path} holds no benchmark with peers; expected what pytest --benchmark-json writes")
    return run


def rows(run: dict[str, Any]) -> dict[str, list[tuple[str, float, dict[str, float]]]]:
    """For each test: (shape, our median, the peers' medians), in seconds."""
    tests: dict[str, list[tuple[str, float, dict[str, float]]]] = {}
    for b in run["benchmarks"]:
        test, _, shape = b["name"].partition("[")
        peers = {name: peer["median"] for name, peer in b["extra_info"].get("peers", {}).items()}
        tests.setdefault(test.removeprefix("test_"), []).append((shape.rstrip("]"), b["stats"]["median"], peers))
    return tests


def machine(run: dict[str, Any]) -> str:
    info = run["machine_info"]
    built = info["rnnfast"]
    return (
        f"{info['cpu'].get('brand_raw', info['machine'])}, {info['threads']} threads; rnnfast {built['version']} "
        f"({built['isa_in_use']}), torch {info['torch']}, Python {info['python_version']}; {run['datetime'][:10]}"
    )


def table(run: dict[str, Any]) -> str:
    """Markdown: medians in ms and ratios of medians, in which more than 1 means that rnnfast is faster."""
    lines = [machine(run)]
    for test, results in rows(run).items():
        peers = list(results[0][2])
        lines += ["", f"| {test}, ms | rnnfast | " + " | ".join(f"{p} | ratio" for p in peers) + " |"]
        lines += ["|---" * (2 + 2 * len(peers)) + "|"]
        for shape, ours, medians in results:
            cells = [shape.replace("_", " "), in_words(ours)[:-3].strip()]
            for p in peers:
                cells += [in_words(medians[p])[:-3].strip(), f"**{medians[p] / ours:.2f}**"]
            lines.append("| " + " | ".join(cells) + " |")
        means = [f"| **{geometric_mean([m[p] / ours for _, ours, m in results]):.2f}** |" for p in peers]
        lines.append("| geometric mean | " + " ".join(["|", *means]))
    return "\n".join(lines)


def draw(run: dict[str, Any], path: Path) -> None:
    """One panel for each test: how many times faster than each peer, by shape."""
    from matplotlib.figure import Figure

    tests = rows(run)
    figure = Figure(figsize=(5.5 * len(tests), 5.2), layout="constrained")
    panels = figure.subplots(1, len(tests), squeeze=False, sharey=True)[0]
    for panel, (test, results) in zip(panels, tests.items(), strict=True):
        places = range(len(results))
        for i, peer in enumerate(results[0][2]):
            values = [medians[peer] / ours for _, ours, medians in results]
            height = 0.8 / len(results[0][2])
            bars = panel.barh([p + i * height for p in places], values, height, label=peer)
            panel.bar_label(bars, fmt=" %.2f", fontsize=8)
        panel.margins(x=0.15)
        panel.axvline(1, color="black", linewidth=1)
        panel.set_yticks(list(places), [shape.replace("_", " ") for shape, _, _ in results])
        panel.set(title=test, xlabel="time of the peer / time of rnnfast")
    panels[0].invert_yaxis()
    panels[0].legend(loc="lower right")
    figure.suptitle(machine(run), fontsize=9)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="what pytest --benchmark-json wrote")
    parser.add_argument("--picture", type=Path, help="default: the run's name with .png")
    options = parser.parse_args()
    run = read(options.run)
    print(table(run))
    picture = options.picture or options.run.with_suffix(".png")
    draw(run, picture)
    print(f"\npicture: {picture}", file=sys.stderr)


if __name__ == "__main__":
    main()
