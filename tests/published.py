"""Data sets of our own in place of published ones, and what is expected of results."""

import json
from pathlib import Path

from rnnfast.recipes.data import sha256
from rnnfast.recipes.sets import SETS, DataSet


def publish(monkeypatch, folder, name, files):
    """Has a data set consist of files of ours."""
    (folder / name).mkdir(parents=True)
    for file, lines in files.items():
        (folder / name / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    sums = {file: sha256(folder / name / file) for file in files}
    monkeypatch.setitem(SETS, name, DataSet("a/b", "0" * 40, "", "ours", sums))
    return folder


def looks_right(result):
    """Whether figures have titles and labelled axes, and the data can be kept."""
    assert json.loads(result.json())["settings"]
    for name, draw in result.figures.items():
        figure = draw()
        assert figure.get_size_inches()[0] * 100 >= 800, name
        axes = figure.axes[0]
        assert axes.get_title() or figure.get_suptitle(), name
        assert axes.get_xlabel(), name
        assert axes.get_ylabel(), name
        figure.savefig(Path("/dev/null"), format="png")
    return True
