"""The command line: commands, options, mistakes, results, and Ctrl-C."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import rnnfast
from rnnfast import lab
from rnnfast.__main__ import COMMANDS, command_line, main
from rnnfast._program import Program, Result, UserError, from_options, needs, progress, setting, whole_file
from rnnfast.recipes import applications, bench, examples, exercises, text

PROGRAMS = {
    f"{command} {name}": program
    for command, registry in (
        ("lab", lab.EXPERIMENTS),
        ("exercise", exercises.EXERCISES),
        ("train", applications.APPLICATIONS),
        ("predict", applications.PREDICTIONS),
        ("example", examples.EXAMPLES),
    )
    for name, program in registry.items()
}


@dataclass(frozen=True)
class Toy(Program):
    """Adds numbers. It is quick."""

    section = "Deep RNNs"
    examples = ("--numbers 3 4",)

    numbers: tuple[int, ...] = setting((1, 2), "to add, 100% of them", least=0)
    name: str = setting("sum", "of the result", choices=("sum", "total"))
    loud: bool = setting(False, "whether to shout")
    within: float | None = setting(None, "what the sum may be at most", most=1000)
    folder: Path | None = setting(None, "to look into", metavar="FOLDER")

    def run(self):
        found = sum(self.numbers)
        if self.name == "total":
            raise UserError("total: it is not known")
        if self.folder is not None:
            raise KeyboardInterrupt

        def draw():
            from matplotlib.figure import Figure

            figure = Figure(figsize=(8, 4))
            figure.subplots().plot([0, found])
            return figure

        data = {self.name: found, "nothing": float("nan"), "folder": str(self.folder)}
        return Result(f"it is {found}", data, {"line": draw}, ok=self.within is None or found <= self.within)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(exercises.EXERCISES, "toy", Toy)


def ends(arguments, capsys):
    """Runs a command that argparse ends; returns status, stdout and stderr."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code, *capsys.readouterr()


def test_help_lists_the_commands_and_loads_no_program():
    program = (
        "import sys; from rnnfast.__main__ import main\n"
        "try: main(['--help'])\n"
        "finally: print('LOADED', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    help, loaded = done.stdout.split("LOADED ")
    for name in (*COMMANDS, "examples:"):
        assert f" {name} " in help or f"\n{name}\n" in help
    ours = {
        name for name in loaded.split() if name.startswith(("rnnfast.lab", "rnnfast.recipes", "rnnfast.models"))
    }
    assert ours == set()
    assert not {"matplotlib", "sklearn", "accelerate"} & set(loaded.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name, capsys):
    status, out, _ = ends([name, "--help"], capsys)
    assert status == 0
    assert out.startswith(f"usage: rnnfast {name}")


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_program_has_help_and_examples_that_can_be_given(name, capsys):
    status, out, _ = ends([*name.split(), "--help"], capsys)
    assert status == 0
    assert "--output FOLDER" in out
    assert "--json" in out
    program = PROGRAMS[name]
    assert program.about().endswith((".", "?"))
    for example in program.examples:
        assert f"rnnfast {name} {example}\n" in out
        options = command_line().parse_args([*name.split(), *shlex.split(example)])
        assert from_options(program, options) is not None


def test_options_are_settings(toy, tmp_path, capsys):
    folder = tmp_path / "a" / "b"
    arguments = ["exercise", "toy", "--numbers", "3", "4", "--output", str(folder)]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out == "it is 7\n"
    assert err == f"written: {folder / 'results.json'}, {folder / 'line.png'}\n"
    assert json.loads((folder / "results.json").read_text()) == {"sum": 7, "nothing": None, "folder": "None"}
    assert (folder / "line.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in folder.iterdir()) == ["line.png", "results.json"]


def test_json(toy, tmp_path, capsys):
    assert main(["exercise", "toy", "--json", "--output", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["sum"] == 3


def test_other_files_are_written_whole(tmp_path):
    result = Result("", {}, files={"a.txt": lambda path: path.write_text("content")})
    assert result.save(tmp_path) == [tmp_path / "results.json", tmp_path / "a.txt"]
    assert (tmp_path / "a.txt").read_text() == "content"
    assert len(list(tmp_path.iterdir())) == 2


def test_the_default_folder(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["exercise", "toy"]) == 0
    assert (tmp_path / "rnnfast-output" / "toy" / "results.json").exists()


def test_a_result_that_was_not_hoped_for(toy, tmp_path):
    assert main(["exercise", "toy", "--within", "2.5", "--output", str(tmp_path)]) == 1
    assert main(["exercise", "toy", "--within", "3.5", "--output", str(tmp_path)]) == 0


MISTAKES = {
    "no command": ([], "rnnfast: the following arguments are required: COMMAND"),
    "unknown command": (["swim"], "rnnfast: argument COMMAND: invalid choice: 'swim'"),
    "no name": (["exercise"], "rnnfast exercise: the following arguments are required: NAME"),
    "unknown name": (["lab", "swim"], "rnnfast lab: argument NAME: invalid choice: 'swim'"),
    "unknown option": (["exercise", "toy", "--swim"], "rnnfast: unrecognized arguments: --swim"),
    "not a number": (
        ["exercise", "toy", "--numbers", "x"],
        "rnnfast exercise toy: argument --numbers: invalid int",
    ),
    "info": (["info", "--T", "x"], "rnnfast info: argument --T: invalid int value: 'x'"),
}


@pytest.mark.parametrize("which", MISTAKES)
def test_a_command_that_cannot_be_read(which, toy, capsys):
    arguments, message = MISTAKES[which]
    status, out, err = ends(arguments, capsys)
    assert (status, out) == (2, "")
    assert err.startswith(message)
    assert err.endswith("(--help lists what there is)\n")
    assert err.count("\n") == 1


WRONG = {
    "choice": (["--name", "x"], "--name: got x, expected one of sum, total"),
    "least": (["--numbers", "1", "-2"], "--numbers: got -2, expected at least 0"),
    "most": (["--within", "1001"], "--within: got 1001.0, expected at most 1000"),
    "device": (["--device", "abacus"], "--device: cannot use 'abacus': "),
    "its own": (["--name", "total"], "total: it is not known"),
    "output": (["--output", __file__], "--output: cannot write to "),
}


@pytest.mark.parametrize("which", WRONG)
def test_a_mistake_gets_one_clear_line(which, toy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments, message = WRONG[which]
    assert main(["exercise", "toy", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"rnnfast exercise toy: {message}")
    assert err.count("\n") == 1


def test_an_interrupted_program(toy, capsys):
    assert main(["exercise", "toy", "--folder", "x"]) == 130
    assert capsys.readouterr() == ("", "")


def test_ctrl_c_in_a_terminal_and_the_same_command_again(tmp_path):
    pytest.importorskip("accelerate", reason="training needs accelerate")
    arguments = shlex.split("exercise adding --lengths 3 --hidden-size 2 --steps 300 --batch-size 2")
    command = [sys.executable, "-m", "rnnfast", *arguments, "--output", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    told = [running.stderr.readline()]
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=300)
    assert running.returncode == 130, err
    assert out == ""
    assert "the same command goes on from" in err
    assert "Traceback" not in err
    assert told[0].startswith("length-3: step 30 of 300")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "length-3: goes on after step " in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adding.png", "model.pt", "results.json"]


def test_info_tells_what_is_in_use(capsys):
    assert main(["info", "--cell", "gru", "--T", "7", "--B", "3", "--H", "40", "--threads", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    isa = rnnfast.build_info()["isa_in_use"]
    assert (f"_cpu_{isa}.so" if isa else "plain torch") in found["build"]["in use"]
    assert found["build"]["threads"] == torch.get_num_threads()
    for name in ("forward", "bptt"):
        plan = rnnfast.plan("gru", 7, 3, 40, threads=1, pass_=name, I=40 if name == "forward" else 0)
        assert found["plans"][name]["schedule"] == plan.schedule
        assert found["plans"][name]["workers"] == plan.workers
    assert main(["info", "--bidirectional"]) == 0
    assert "bptt of lstm T=100 B=32 H=128 I=128 float32 on cpu" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cell", "x"], "--cell: got x, expected one of rnn, rnn_relu, lstm, gru"),
        (["--H", "0"], "--H: got 0, expected at least 1"),
        (["--dtype", "int8"], "--dtype: got int8, expected one of float32, float64, bfloat16, float16"),
        (["--device", "abacus"], "no plan for --device abacus"),
    ],
)
def test_info_of_what_cannot_be(arguments, message, capsys):
    assert main(["info", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"rnnfast info: {message}")
    assert err.count("\n") == 1


def test_text_names_every_program_where_it_belongs(capsys):
    assert main(["text"]) == 0
    printed = capsys.readouterr().out.splitlines()
    titles = [line for line in printed if not line.startswith(" ")]
    assert titles == list(text.SECTIONS)
    for name, program in PROGRAMS.items():
        if name.startswith("predict "):
            continue  # `train` of the same name stands for both
        assert program.section in text.SECTIONS, name
        assert any(line.startswith(f"    rnnfast {name} ") for line in printed)
    assert main(["text", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for name in (name for has in found.values() for name in has["python"]):
        place = rnnfast
        for part in name.split(".")[1:]:
            place = getattr(place, part) if hasattr(place, part) else __import__(name, fromlist=["x"])
        assert place is not rnnfast, name


def test_bench_runs_pytest_on_the_checkout(tmp_path, monkeypatch):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "test_forward.py").touch()
    monkeypatch.chdir(tmp_path)
    given = []
    monkeypatch.setattr(
        bench.subprocess, "run", lambda *a, **k: given.append((a, k)) or subprocess.CompletedProcess(a, 5)
    )
    assert main(["bench", "-k", "lstm and training", "--benchmark-json=run.json"]) == 5
    (((command,), options),) = given
    assert command[1:] == [
        "-m",
        "pytest",
        str(tmp_path / "benchmarks"),
        "-k",
        "lstm and training",
        "--benchmark-json=run.json",
    ]
    assert options["cwd"] == tmp_path


def test_bench_outside_a_checkout(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    assert main(["bench", "-k", "lstm"]) == 2
    assert capsys.readouterr().err.startswith(f"rnnfast bench: no benchmarks/ in {tmp_path}: run it in a checkout")


def test_a_library_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(UserError, match=r"needs tqdm: pip install 'rnnfast\[lab\]'"):
        needs("tqdm", "lab")


@pytest.mark.parametrize("there", [True, False])
def test_progress_goes_through_all_steps(there, monkeypatch):
    if not there:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    assert list(progress(range(3, 6), "it", done=3)) == [3, 4, 5]
    assert list(progress(iter("ab"), "it")) == ["a", "b"]


def test_no_half_file(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("before")
    with contextlib.suppress(ZeroDivisionError), whole_file(file) as path:
        path.write_text("half")
        raise ZeroDivisionError
    assert file.read_text() == "before"
    with whole_file(file) as path:
        path.write_text("after")
        assert file.read_text() == "before"
    assert file.read_text() == "after"
    assert list(tmp_path.iterdir()) == [file]
