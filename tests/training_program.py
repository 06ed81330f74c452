"""A small training for the tests of the loop, which interrupt and kill it."""

import hashlib
import os
import signal

import torch
import torch.nn.functional as F

from rnnfast.models import SequenceClassifier
from rnnfast.recipes.checkpoints import Checkpoints
from rnnfast.recipes.training import Schedule, Task, Trainer, generator

STEPS = 14
SCHEDULE = Schedule(STEPS, 0.01, evaluate_every=5)


class Parity(Task):
    """Is the number of ones even? With dropout, so that random states matter, and a count that it carries."""

    def __init__(self, batch_size=8):
        torch.manual_seed(1)
        model = SequenceClassifier(2, 4, 6, 2, cell="gru", num_layers=2, dropout=0.3)
        super().__init__(model)
        self.batch_size, self.seen = batch_size, 0
        self.before_step = lambda step: None

    def batch(self, step):
        self.before_step(step)
        self.seen += 1
        tokens = torch.randint(0, 2, (self.batch_size, 5), generator=generator(3, step))
        return tokens, torch.randint(1, 6, (self.batch_size,), generator=generator(4, step)), tokens.sum(1) % 2

    def loss(self, model, batch):
        tokens, lengths, parity = batch
        return F.cross_entropy(model(tokens, lengths), parity, reduction="sum"), len(parity)

    def evaluate(self):
        torch.rand(3)  # what evaluation draws must not change how training goes on
        return {"parameter": float(next(self.model.parameters()).detach().sum())}

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def digest(task):
    """Of all weights, bit by bit."""
    weights = [w.detach().numpy().tobytes() for w in task.model.state_dict().values()]
    return hashlib.sha256(b"".join(weights)).hexdigest()


def train(folder, task=None, **options):
    """Trains it; returns the progress and the task."""
    task = task or Parity()
    trainer = Trainer(seed=5, folder=folder, settings={"rate": 0.01}, **options)
    return trainer.train(task, SCHEDULE, "parity"), task


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(folder, at, where):
    """Trains until step `at`, where the process ends itself by SIGKILL.

    Args:
        where: ``"step"``, before that step; ``"writing"``, while the checkpoint after it is written; ``"rename"``,
            just before that is renamed.
    """
    task, commit = Parity(), Checkpoints.commit

    def dying(self, progress):
        if progress.step == at:
            if where == "writing":
                next(self.unfinished.iterdir()).unlink()
                kill()
            type(self.unfinished).rename = lambda *names: kill()
        commit(self, progress)

    if where == "step":
        task.before_step = lambda step: kill() if step == at else None
    else:
        Checkpoints.commit = dying
    train(folder, task, save_every=0)
