"""The shared training loop: it trains as a plain one does, and goes on after whatever ended it, bit for bit."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from training_program import SCHEDULE, STEPS, Parity, digest, train, train_and_die

from rnnfast._program import Result, UserError, setting
from rnnfast.recipes.order import Order
from rnnfast.recipes.recipe import Recipe, load_model
from rnnfast.recipes.training import Schedule, Task, Trainer

pytest.importorskip("accelerate", reason="training needs accelerate")
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What the training gives when it is left alone, without any checkpoint."""
    torch.set_num_threads(1)
    progress, task = train(None)
    return progress, digest(task)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder that a training has left its last checkpoint in."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finished")
    train(folder)
    return folder


def test_it_is_the_plain_loop(uninterrupted):
    progress, weights = uninterrupted
    from accelerate.utils import set_seed

    task = Parity()
    set_seed(5)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=SCHEDULE.rate, weight_decay=0.01, fused=True)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, SCHEDULE.rate, total_steps=STEPS + 1, pct_start=0.1)
    losses = []
    for step in range(STEPS):
        total, count = task.loss(task.model.train(), task.batch(step))
        loss = total / count
        loss.backward()
        nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 5 == 0:
            torch.rand(3)
    assert progress.losses == losses
    assert weights == digest(task)
    assert [found["step"] for found in progress.metrics] == [5, 10, 14]
    assert progress.metrics[-1]["parameter"] == float(next(task.model.parameters()).detach().sum())


def test_ctrl_c_loses_nothing(uninterrupted, tmp_path, capsys):
    stop = random.Random(torch.initial_seed()).randrange(STEPS - 1)
    task = Parity()
    task.before_step = lambda step: signal.raise_signal(signal.SIGINT) if step == stop else None
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, task)
    assert f"stopped after step {stop + 1} of {STEPS}; the same command goes on" in capsys.readouterr().err
    torch.rand(7)
    progress, task = train(tmp_path)
    assert f"goes on after step {stop + 1} of {STEPS}" in capsys.readouterr().err
    assert (progress.losses, progress.metrics) == (uninterrupted[0].losses, uninterrupted[0].metrics)
    assert digest(task) == uninterrupted[1]
    assert task.seen == STEPS


def test_a_second_ctrl_c_ends_at_once_and_leaves_the_last_checkpoint(uninterrupted, tmp_path):
    def twice(step):
        if step == 6:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    task, before = Parity(), signal.getsignal(signal.SIGINT)
    task.before_step = twice
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, task, save_every=0)
    assert [path.name for path in tmp_path.glob("checkpoints/parity/*")] == ["step-6"]
    assert digest(train(tmp_path)[1]) == uninterrupted[1]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # it trains in one thread
@pytest.mark.parametrize("where", ["step", "writing", "rename"])
def test_sigkill_loses_nothing(where, uninterrupted, tmp_path, capsys):
    stop = random.Random(torch.initial_seed()).randrange(2, STEPS)
    child = os.fork()
    if child == 0:
        try:
            train_and_die(tmp_path, stop, where)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    last = stop if where == "step" else stop - 1
    assert [path.name for path in tmp_path.glob("checkpoints/parity/step-*")] == [f"step-{last}"]
    capsys.readouterr()
    progress, task = train(tmp_path)
    assert f"goes on after step {last} of {STEPS}" in capsys.readouterr().err
    assert (progress.losses, progress.metrics) == (uninterrupted[0].losses, uninterrupted[0].metrics)
    assert digest(task) == uninterrupted[1]
    assert [path.name for path in tmp_path.glob("checkpoints/parity/*")] == [f"step-{STEPS}"]


def test_a_finished_training_is_not_repeated(uninterrupted, tmp_path):
    train(tmp_path)
    task = Parity()
    progress, task = train(tmp_path, task)
    assert task.seen == STEPS
    assert (progress.losses, digest(task)) == (uninterrupted[0].losses, uninterrupted[1])
    assert len(list(tmp_path.glob("checkpoints/parity/*"))) == 1
    repeated = train(tmp_path, restart=True)[1]
    assert digest(repeated) == uninterrupted[1]


def damage(how, folder):
    if how == "truncated":
        file = folder / "optimizer.bin"
        file.write_bytes(file.read_bytes()[:-7])
    elif how == "one bit":
        file = folder / "model.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif how == "missing":
        file = folder / "random_states_0.pkl"
        file.unlink()
    else:
        file = folder / "progress.json"
        file.write_text({"no JSON": "{", "other JSON": "[]", "empty": ""}[how])
    return file.name


@pytest.mark.parametrize("how", ["truncated", "one bit", "missing", "no JSON", "other JSON", "empty"])
def test_a_damaged_checkpoint_is_told_in_a_line(how, finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    name = damage(how, tmp_path / "checkpoints" / "parity" / f"step-{STEPS}")
    with pytest.raises(UserError, match=rf"--output: .*step-{STEPS}/{name} is damaged: --restart begins anew"):
        train(tmp_path)


def test_other_settings_do_not_go_on(finished):
    with pytest.raises(UserError, match=r"--rate: got 0.1, but the unfinished run in .* has 0.01: give that"):
        Trainer(folder=finished, settings={"rate": 0.1}).train(Parity(), SCHEDULE, "parity")


def test_another_model_does_not_go_on(finished):
    task = Parity()
    task.model = nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"--output: cannot go on from .*step-14: .*--restart begins anew"):
        train(finished, task)


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"--output: cannot write to .*checkpoints/parity: \w+"):
        train(tmp_path)


def test_a_loss_that_is_no_number():
    task = Parity()
    loss = task.loss
    task.loss = lambda model, batch: (loss(model, batch)[0] * float("nan"), 8)
    with pytest.raises(UserError, match=r"parity: the loss is nan at step 1"):
        train(None, task)


def test_nothing_asks_the_network(monkeypatch, tmp_path):
    def refuse(*arguments):
        raise AssertionError(f"asks the network: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert train(tmp_path)[0].step == STEPS


def test_bf16_trains_and_leaves_an_ordinary_model():
    progress, task = train(None, precision="bf16")
    exact = train(None)[0]
    assert progress.losses != exact.losses
    assert progress.losses == pytest.approx(exact.losses, abs=0.05)
    tokens = torch.randint(0, 2, (3, 4))
    assert task.model(tokens).dtype == torch.float32
    assert not any(hasattr(module, "_original_forward") for module in task.model.modules())


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path):
    """Under torchrun each has every second row of the same global batch; no dropout, whose masks differ."""
    program = tmp_path / "program.py"
    program.write_text(
        "import json, os, sys, torch\n"
        "from training_program import Parity, SCHEDULE\n"
        "from rnnfast.recipes.training import Trainer\n"
        "task = Parity()\n"
        "task.model.rnn.dropout = 0.0\n"
        "progress = Trainer(folder=None).train(task, SCHEDULE, 'parity')\n"
        "if os.environ.get('RANK', '0') == '0':\n"
        "    open(sys.argv[1], 'w').write(json.dumps(progress.losses))\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    found = []
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]):
        report = tmp_path / f"{len(launcher)}.json"
        command = [sys.executable, *launcher, str(program), str(report)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(report.read_text()))
    assert found[1] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.parametrize("lengths", [False, True])
def test_an_epoch_has_each_row_once(lengths):
    lengths = torch.randint(1, 9, (103,)) if lengths else None
    order = Order(103, 10, 0, lengths)
    assert order.steps_per_epoch == 10
    epochs = [torch.cat([order[e * 10 + s] for s in range(10)]) for e in (0, 1, 0)]
    for rows in epochs:
        assert len(rows.unique()) == len(rows) == 100
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(Order(103, 10, 0, lengths)[13], order[13])
    assert not torch.equal(Order(103, 10, 1, lengths)[13], order[13])
    if lengths is not None:
        spread = [int(lengths[order[s]].max() - lengths[order[s]].min()) for s in range(10)]
        assert max(spread) <= 2


def test_fewer_rows_than_a_batch():
    assert sorted(Order(3, 8, 0)[5].tolist()) == [0, 1, 2]


@dataclass(frozen=True)
class Tiny(Recipe):
    """A recipe of nothing."""

    width: int = setting(3, "of it")

    def run(self):
        model = nn.Linear(self.width, 2)
        self.save_model("tiny", [model], vocabulary=["a", "ß"])
        return Result("", {})


def test_a_model_file_carries_all_that_it_takes(tmp_path):
    Tiny(output=tmp_path, width=4).run()
    raw = torch.load(tmp_path / "model.pt", weights_only=True)
    content = load_model(tmp_path / "model.pt", "tiny")
    assert content["settings"] == raw["settings"]
    assert content["settings"]["width"] == 4
    assert content["vocabulary"] == ["a", "ß"]
    nn.Linear(4, 2).load_state_dict(content["weights"][0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt"]


def test_a_model_file_that_is_none(tmp_path):
    Tiny(output=tmp_path).run()
    file = tmp_path / "model.pt"
    with pytest.raises(UserError, match=r"--checkpoint: .* holds a model for tiny, expected one for names"):
        load_model(file, "names")
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"PK\x03\x04", os.urandom(200)):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"--checkpoint: .*model.pt is damaged, or no model of rnnfast's"):
            load_model(file, "tiny")
    torch.save({"a": 1}, file)
    with pytest.raises(UserError, match=r"--checkpoint: .*model.pt is no model of rnnfast's"):
        load_model(file, "tiny")
    with pytest.raises(UserError, match=r"--checkpoint: cannot read .*none: No such file or directory"):
        load_model(tmp_path / "none", "tiny")
    with pytest.raises(UserError, match=r"--checkpoint: cannot read .*: Is a directory"):
        load_model(tmp_path, "tiny")


def test_a_task_needs_no_more_than_model_batch_and_loss():
    class Least(Task):
        def batch(self, step):
            return {"x": torch.ones(2, 3)}

        def loss(self, model, batch):
            return model(batch["x"]).square().sum(), 2

    task = Least(nn.Linear(3, 1))
    progress = Trainer().train(task, Schedule(5), "least")
    assert progress.losses[-1] < progress.losses[0]
    assert progress.metrics == [{"step": 5}]
    assert not task.model.training


def test_a_schedule_ends_near_zero(monkeypatch):
    rates = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *a: (rates.append(self.param_groups[0]["lr"]), step(self, *a))[1]
    )
    train(None)
    assert len(rates) == STEPS
    assert max(rates) == pytest.approx(SCHEDULE.rate, rel=0.01)
    assert rates[-1] < SCHEDULE.rate / 20


@pytest.mark.parametrize("steps", [1, 2, 9, 10])
def test_few_steps_have_a_schedule_too(steps):
    task = Parity()
    assert Trainer().train(task, Schedule(steps, 0.01), "few").step == steps


def test_progress_bars_and_pictures_are_not_needed_to_train(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert train(None)[0].step == STEPS


def test_accelerate_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UserError, match=r"needs accelerate: pip install 'rnnfast\[recipes\]'"):
        Trainer()
