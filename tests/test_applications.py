"""What all applications have: a command to train, one to answer, mistakes in a line, a limit of time."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from rnnfast.__main__ import main
from rnnfast._program import UserError
from rnnfast.recipes import training
from rnnfast.recipes.applications import APPLICATIONS, PREDICTIONS
from rnnfast.recipes.applications.application import Best, Prediction
from rnnfast.recipes.applications.charlm import CharLM
from rnnfast.recipes.training import Schedule, Task, Trainer

pytest.importorskip("accelerate", reason="training needs accelerate")
pytest.importorskip("matplotlib", reason="figures need matplotlib")
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")

VERSE = "round and round the wheels go, and round they come again;\n"
TINY = ["--hidden-size", "12", "--embedding-size", "6", "--length", "10", "--batch-size", "4"]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def verses(tmp_path_factory):
    """A text, and the folder of a model of it."""
    folder = tmp_path_factory.mktemp("verses")
    (folder / "text.txt").write_text(VERSE * 20)
    arguments = ["train", "charlm", "--text", str(folder / "text.txt"), *TINY, "--epochs", "1"]
    assert main([*arguments, "--output", str(folder / "out")]) == 0
    return folder


def test_each_application_answers():
    assert list(PREDICTIONS) == list(APPLICATIONS)
    for name, kind in APPLICATIONS.items():
        assert kind.prediction.application == name
        assert kind.prediction.expects
        assert kind().cell in ("rnn", "lstm", "gru")
        assert issubclass(kind.prediction, Prediction)


def test_an_answer_is_printed_and_kept_only_if_asked_for(verses, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    answer = ["predict", "charlm", "round and", "--length", "5", "--checkpoint", str(verses / "out" / "model.pt")]
    assert main(answer) == 0
    out, err = capsys.readouterr()
    assert out.startswith("round and")
    assert len(out.rstrip("\n")) <= len("round and") + 5
    assert err == ""
    assert list(tmp_path.iterdir()) == []
    assert main([*answer, "--json", "--output", "kept"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["beginning"] + found["continuation"] == out.removesuffix("\n")
    assert json.loads((tmp_path / "kept" / "results.json").read_text()) == found
    assert main([*answer, "--seed", "5"]) == 0
    assert capsys.readouterr().out != out


def test_the_default_checkpoint_is_where_training_leaves_it(verses, monkeypatch, capsys):
    monkeypatch.chdir(verses)
    (verses / "rnnfast-output").mkdir()
    (verses / "rnnfast-output" / "charlm").symlink_to(verses / "out")
    monkeypatch.setattr(sys, "stdin", io.StringIO("the whee"))
    assert main(["predict", "charlm", "-", "--length", "1"]) == 0
    assert capsys.readouterr().out.startswith("the whee")


WRONG_INPUT = {
    "none": ([], "INPUT: none given, expected a beginning to be continued"),
    "empty": ([" \n"], "INPUT: it is empty"),
    "empty file": (["empty.txt"], "INPUT: empty.txt is empty"),
    "not UTF-8": (["latin.txt"], "INPUT: latin.txt is not UTF-8 (byte 0 does not fit)"),
}


@pytest.mark.parametrize("which", WRONG_INPUT)
def test_an_input_that_is_none(which, verses, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    given, message = WRONG_INPUT[which]
    assert main(["predict", "charlm", *given, "--checkpoint", str(verses / "out" / "model.pt")]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"rnnfast predict charlm: {message}")
    assert err.count("\n") == 1


def damaged(how, file, content):
    if how == "missing":
        return "cannot read"
    if how == "cut":
        file.write_bytes(content[: len(content) // 2])
        return "is damaged, or no model of rnnfast's"
    if how == "another program's":
        torch.save({"weights": [torch.ones(2)]}, file)
        return "is no model of rnnfast's"
    if how == "code":  # which no loading may run
        torch.save({"format": "rnnfast model 1", "task": "charlm", "run": os.system}, file)
        return "is damaged, or no model of rnnfast's"
    whole = torch.load(io.BytesIO(content), weights_only=True)
    if how == "another application's":
        whole["task"] = "forecast"
    elif how == "other sizes":
        whole["settings"]["hidden_size"] += 1
    elif how == "without vocabulary":
        del whole["vocabulary"]
    torch.save(whole, file)
    if how == "another application's":
        return "holds a model for forecast, expected one for charlm"
    return "is of another version of rnnfast, or damaged"


@pytest.mark.parametrize(
    "how",
    ["missing", "cut", "another program's", "code", "another application's", "other sizes", "without vocabulary"],
)
def test_a_checkpoint_that_is_none(how, verses, tmp_path, capsys):
    file = tmp_path / "model.pt"
    message = damaged(how, file, (verses / "out" / "model.pt").read_bytes())
    assert main(["predict", "charlm", "round", "--checkpoint", str(file)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("rnnfast predict charlm: --checkpoint: ")
    assert message in err
    assert err.count("\n") == 1


def test_an_application_that_there_is_not(capsys):
    for command in ("train", "predict"):
        with pytest.raises(SystemExit):
            main([command, "swim"])
        err = capsys.readouterr().err
        assert err.startswith(f"rnnfast {command}: argument NAME: invalid choice: 'swim'")
        assert err.count("\n") == 1


def test_data_that_there_is_not(tmp_path, capsys):
    assert main(["train", "charlm", "--data", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert f"--data: {tmp_path} has no tinyshakespeare/input.txt; it is data/tinyshakespeare/input.txt of" in err
    assert err.count("\n") == 1


def test_settings_are_kept_as_plain_data(verses):
    content = torch.load(verses / "out" / "model.pt", weights_only=True)
    assert content["settings"]["text"] == str(verses / "text.txt")
    assert content["settings"]["cell"] == "gru"
    assert len(content["vocabulary"]) == len(set(VERSE))


# Time that is limited


class Clock:
    """Stands for the module `time`: goes on by as much at each look."""

    def __init__(self, seconds):
        self.now, self.seconds = 1000.0, seconds

    def monotonic(self):
        self.now += self.seconds
        return self.now


class Slope(Task):
    """Notes the rate of each step."""

    def __init__(self, stop=None):
        super().__init__(nn.Linear(1, 1))
        self.steps, self.stop = [], stop

    def batch(self, step):
        self.steps.append(step)
        if step == self.stop:
            signal.raise_signal(signal.SIGINT)
        return torch.ones(1, 1)

    def loss(self, model, batch):
        return model(batch).square().sum(), 1


def rates_of(monkeypatch):
    found, step = [], torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *a: (found.append(self.param_groups[0]["lr"]), step(self, *a))[1]
    )
    return found


def test_a_limit_of_time_ends_the_schedule_sooner(monkeypatch):
    rates = rates_of(monkeypatch)
    monkeypatch.setattr(training, "time", Clock(0.5))  # looked at twice a step
    task = Slope()
    progress = Trainer().train(task, Schedule(1000, 0.1, minutes=1), "slope")
    assert 55 <= progress.step <= 61
    assert progress.step == len(rates) == len(progress.losses) == progress.metrics[-1]["step"]
    assert max(rates) == pytest.approx(0.1, rel=0.1)
    assert rates[-1] < 0.002
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_time_enough_changes_nothing(monkeypatch):
    rates = rates_of(monkeypatch)
    Trainer().train(Slope(), Schedule(20, 0.1, minutes=60), "slope")
    Trainer().train(Slope(), Schedule(20, 0.1), "slope")
    assert rates[:20] == rates[20:]


def test_a_limit_of_time_is_that_of_all_runs_together(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "time", Clock(0.5))
    schedule, task = Schedule(1000, 0.1, minutes=1), Slope(stop=29)
    with pytest.raises(KeyboardInterrupt):
        Trainer(folder=tmp_path).train(task, schedule, "slope")
    again = Slope()
    progress = Trainer(folder=tmp_path).train(again, schedule, "slope")
    assert again.steps[0] == 30
    assert 55 <= progress.step <= 63
    finished = Slope()
    assert Trainer(folder=tmp_path).train(finished, schedule, "slope").step == progress.step
    assert finished.steps == []


def test_seconds_are_those_of_training():
    begin = time.monotonic()
    progress = Trainer().train(Slope(), Schedule(5), "slope")
    assert 0 < progress.seconds < time.monotonic() - begin


# The best of several evaluations


def test_the_best_weights_are_kept_and_carried():
    model, best = nn.Linear(1, 1), Best()
    values = [3.0, 1.0, 2.0]
    for value in values:
        nn.init.constant_(model.weight, value)
        best.note(model, value)
    again = Best()
    again.load_state_dict(best.state_dict())
    again.note(model, 1.5)
    again.restore(model)
    assert (again.value, model.weight.item()) == (1.0, 1.0)
    Best().restore(model)
    assert model.weight.item() == 1.0


def test_a_minute_at_least():
    with pytest.raises(UserError, match="--minutes: got 0, expected at least"):
        CharLM(minutes=0)


@pytest.mark.slow
def test_two_processes_train_as_one(verses, tmp_path):
    """torchrun on CPUs: the same global batch, the same losses; each process carries the states of its rows."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    found = []
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]):
        folder = tmp_path / str(len(launcher))
        arguments = ["-m", "rnnfast", "train", "charlm", "--text", str(verses / "text.txt"), *TINY, "--json"]
        command = [sys.executable, *launcher, *arguments, "--epochs", "2", "--output", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        found.append(json.loads((folder / "results.json").read_text()))
        assert done.stdout.count('"nats per character"') == 1
    one, two = found
    assert len(one["losses"]) == one["steps"] > 20
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["nats per character"] == pytest.approx(one["nats per character"], rel=1e-4)
