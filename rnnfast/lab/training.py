"""The loop that all of the laboratory's experiments train with."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from .tasks import Task

_LAST = 20  # steps whose mean loss tells whether training may end
_OPTIMIZERS: dict[str, Any] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


@dataclass
class Run:
    """What one training gave.

    Args:
        losses: of each step's batch; fewer than the steps asked for if training ended early, because one was low
            enough or not finite.
        norms: of the whole gradient at each step, before clipping; empty if not asked for.
        error: loss on held-out sequences, NaN where the last of `losses` is not finite.
    """

    losses: list[float]
    norms: list[float]
    error: float

    @property
    def diverged(self) -> bool:
        """Whether training met a loss that is not finite."""
        return not math.isfinite(self.error)


def outputs_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """Outputs at all steps, of a model that may also return its state."""
    result: Any = model(inputs)
    return result[0] if isinstance(result, tuple) else result


def train(
    model: nn.Module,
    task: Task,
    *,
    steps: int = 1000,
    batch_size: int = 32,
    rate: float = 0.01,
    clip: float | None = None,
    optimizer: str = "adam",
    seed: int = 0,
    norms: bool = False,
    stop_at: float | None = None,
) -> Run:
    """Trains a model on fresh sequences at each step, then evaluates it on held-out ones.

    Args:
        model: from inputs (B, T, I) to outputs (B, T, O), or a tuple that begins with them.
        task: what to learn.
        steps, batch_size, rate: of the training.
        clip: largest norm of the whole gradient, to which it is scaled down; None for no limit.
        optimizer: ``"adam"`` or ``"sgd"``, without momentum.
        seed: of the sequences.
        norms: whether to record the gradient's norm at each step.
        stop_at: training ends once the mean loss of the last 20 steps is no more than this.

    Example:
        >>> run = train(rnnfast.models.ReadoutRNN(1, 8, 1), CopyFirst(5), steps=3)
        >>> len(run.losses), run.diverged
        (3, False)
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = parameters[0].device
    stepper = _OPTIMIZERS[optimizer](parameters, lr=rate, fused=True)
    generator = Generator().manual_seed(seed)
    run = Run([], [], math.nan)
    model.train()
    for _ in range(steps):
        inputs, targets = [t.to(device) for t in task.batch(batch_size, generator)]
        loss = task.loss(outputs_of(model, inputs), targets)
        stepper.zero_grad()
        loss.backward()
        if norms or clip is not None:
            norm = nn.utils.clip_grad_norm_(parameters, math.inf if clip is None else clip)
            run.norms.append(float(norm))
        stepper.step()
        run.losses.append(float(loss.detach()))
        if not math.isfinite(run.losses[-1]):
            return run
        if stop_at is not None and len(run.losses) >= _LAST and statistics.fmean(run.losses[-_LAST:]) <= stop_at:
            break
    run.error = evaluate(model, task)
    return run


@torch.no_grad()
def evaluate(model: nn.Module, task: Task) -> float:
    """The loss on the task's held-out sequences."""
    model.eval()
    device = next(model.parameters()).device
    inputs, targets = [t.to(device) for t in task.held_out()]
    return float(task.loss(outputs_of(model, inputs), targets))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Has torch use one thread: models as small as the laboratory's gain nothing from more, and on busy
    processors wait for them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


__all__ = ["Run", "evaluate", "one_thread", "outputs_of", "train"]
