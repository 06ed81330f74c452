"""python -m rnnfast demo, as a user runs it."""

import re
import subprocess
import sys

import pytest
from PIL import Image

from rnnfast.__main__ import main


def demo(*arguments):
    return main(["demo", *map(str, arguments)])


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("To be, or not to be, that is the question: ünïcode too.\n" * 20, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("options", "kind"), [((), "RNN"), (("--cell", "lstm"), "LSTM"), (("--cell", "gru"), "GRU")]
)
def test_it_trains_compares_samples_and_draws(options, kind, tmp_path, capsys):
    picture = tmp_path / "curves.png"
    assert demo(*options, "--steps", 12, "--sample", 40, "--output", picture) == 0
    out = capsys.readouterr().out
    rows = {name: row for name, *row in re.findall(r"^(\S+\.\w+) +([\d.]+) +([\d.]+) +([\d,]+)$", out, re.M)}
    assert set(rows) == {f"torch.nn.{kind}", f"rnnfast.{kind}"}
    first, last = [float(loss) for loss in rows[f"rnnfast.{kind}"][:2]]
    assert last < first - 0.5
    assert rows[f"torch.nn.{kind}"][:2] == rows[f"rnnfast.{kind}"][:2]
    assert re.search(r"ratio [\d.]+; the loss curves agree: at most \S+ apart", out)
    sample = out.split("A sample at temperature 0.8:\n")[1]
    assert len(sample) > 40
    with Image.open(picture) as image:
        assert image.size[0] > 500


def test_a_text_of_ones_own(text, tmp_path, capsys):
    assert demo("--text", text, "--steps", 2, "--sample", 0, "--output", tmp_path / "a.svg") == 0
    out = capsys.readouterr().out
    assert "1,120 characters" in out
    assert "sample" not in out


def mistakes(tmp_path):
    (tmp_path / "empty").write_text("")
    (tmp_path / "latin").write_bytes("caf\xe9 ".encode("latin-1") * 30)
    return {
        "cell": (["--cell", "elman"], "--cell: got elman, expected one of rnn, lstm, gru"),
        "missing": (["--text", tmp_path / "none"], "--text: cannot read .*none: No such file or directory"),
        "folder": (["--text", tmp_path], "--text: cannot read .*: Is a directory"),
        "empty": (["--text", tmp_path / "empty"], "--text: .*empty has 0 characters, expected more than 51"),
        "not UTF-8": (["--text", tmp_path / "latin"], r"--text: .*latin is not UTF-8 \(byte 3 does not fit\)"),
        "steps": (["--steps", 0], "--steps: got 0, expected at least 1"),
        "sample": (["--sample", -1], "--sample: got -1, expected at least 0"),
        "folder of output": (["--output", tmp_path / "no" / "a.png"], "--output: .*no is not a folder"),
        "kind of output": (
            ["--output", tmp_path / "a.xyz"],
            r"--output: got .*a.xyz, expected a name that ends in .png",
        ),
    }


MISTAKES = [
    "cell",
    "missing",
    "folder",
    "empty",
    "not UTF-8",
    "steps",
    "sample",
    "folder of output",
    "kind of output",
]


@pytest.mark.parametrize("which", MISTAKES)
def test_a_mistake_gets_one_clear_line(which, tmp_path, capsys):
    arguments, message = mistakes(tmp_path)[which]
    assert demo(*arguments) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(f"rnnfast demo: {message}.*\n", captured.err)
    assert captured.out == ""


def test_help_and_no_command():
    result = subprocess.run([sys.executable, "-m", "rnnfast", "demo", "--help"], capture_output=True, text=True)
    assert result.returncode == 0
    assert "--text FILE" in result.stdout
    result = subprocess.run([sys.executable, "-m", "rnnfast"], capture_output=True, text=True)
    assert result.returncode == 2
    assert "COMMAND" in result.stderr or "command" in result.stderr
