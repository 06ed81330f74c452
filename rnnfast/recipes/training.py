"""The loop that every program on real data trains with.

Hugging Face's accelerate places models on devices, runs them in mixed precision, clips gradients, saves and
restores states, and under ``torchrun`` averages gradients over processes. What is added here: a run that is
interrupted goes on as if it had not been, bit for bit.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from .._program import UserError, needs, notice, progress
from .checkpoints import Checkpoints, Progress


def generator(seed: int, step: int) -> torch.Generator:
    """Of the random numbers of one step, independent of those of the others."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


class Task:
    """What the loop trains. Subclasses hold the data and say what a batch is and what it costs.

    Args:
        model: in training.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def batch(self, step: int) -> Any:
        """The tensors of a step, batch first, in any nest of tuples, lists and dicts.

        They depend on the step and the task's seed alone: this is how a run finds its place again. Under
        ``torchrun`` each process takes every n-th row.
        """
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, int]:
        """The sum of the losses of all that is predicted, and how many these are.

        Call `model`, not ``self.model``: it may be wrapped for several processes.
        """
        raise NotImplementedError

    def evaluate(self) -> dict[str, float]:
        """Metrics on data that is not trained on."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What the task carries from batch to batch, of kinds that ``torch.load(weights_only=True)`` knows."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes it back."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train: AdamW, its rate rising linearly and falling as a cosine to 0.

    (Loshchilov and Hutter, "Decoupled weight decay regularization", arXiv:1711.05101; the schedule: Smith and
    Topin, "Super-convergence", arXiv:1708.07120.)

    Args:
        steps: of training.
        rate: the highest learning rate.
        warm_up: share of the steps in which it rises.
        weight_decay: of AdamW.
        clip: largest norm of the whole gradient, to which it is scaled down.
        evaluate_every: steps between evaluations; 0 for none before the end.
        minutes: after which training is to be done, resumed runs together; None for as long as it takes. Where
            there is no time for all steps, the rate falls sooner and the last ones are left out, so that how
            many there are depends on the machine.
    """

    steps: int
    rate: float = 3e-3
    warm_up: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    evaluate_every: int = 0
    minutes: float | None = None


class Interrupt:
    """Holds Ctrl-C back until a step is done; a second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Interrupt:
        self._main = threading.current_thread() is threading.main_thread()  # only there signals can be caught
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class Trainer:
    """Trains tasks.

    Args:
        seed: of dropout; batches have the task's.
        device: such as ``"cpu"`` or ``"cuda:1"``; under ``torchrun`` on GPUs each process takes its own.
        precision: ``"no"``, ``"bf16"`` or ``"fp16"``, what activations are rounded to.
        folder: for checkpoints; None for none.
        settings: of the program; a run goes on only under the same.
        restart: whether to begin anew where there are checkpoints.
        save_every: seconds between them.

    Example:
        >>> trained = Trainer(seed=1).train(task, Schedule(steps=1000), "names")
        >>> trained.losses[-1], trained.metrics[-1]
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        device: str = "cpu",
        precision: str = "no",
        folder: Path | None = None,
        settings: dict[str, Any] | None = None,
        restart: bool = False,
        save_every: float = 20.0,
    ) -> None:
        self.seed, self.folder, self.settings = seed, folder, settings or {}
        self.restart, self.save_every = restart, save_every
        self.accelerate = _accelerate(device)
        self.accelerator = self.accelerate.Accelerator(
            cpu=torch.device(device).type == "cpu",
            mixed_precision=precision,
            step_scheduler_with_optimizer=False,  # which would take as many steps as there are processes
        )

    def train(self, task: Task, schedule: Schedule, name: str) -> Progress:
        """Trains a task's model, or goes on with it; the model is left in evaluation mode.

        Args:
            name: of this training, among others of the same folder and in messages.

        Raises:
            UserError: for a checkpoint that does not fit or is damaged, or a loss that is no number.
            KeyboardInterrupt: after Ctrl-C, once a checkpoint is written.
        """
        run = self.begin(task, schedule, name)
        with Interrupt() as interrupt:
            run.go(interrupt)
        task.model = self.accelerator.unwrap_model(run.model, keep_fp32_wrapper=False).eval()
        self.accelerator.free_memory()
        return run.done

    def begin(self, task: Task, schedule: Schedule, name: str) -> _Run:
        """A training whose steps the caller takes."""
        return _Run(self, task, schedule, name)


class _Run:
    """One training of a :class:`Trainer`."""

    def __init__(self, trainer: Trainer, task: Task, schedule: Schedule, name: str) -> None:
        self.accelerator, self.task, self.schedule, self.name = trainer.accelerator, task, schedule, name
        self.utils = trainer.accelerate.utils
        self.utils.set_seed(trainer.seed, device_specific=True)
        optimizer = torch.optim.AdamW(
            task.model.parameters(), lr=schedule.rate, weight_decay=schedule.weight_decay, fused=True
        )
        total, rising = schedule.steps + 1, schedule.warm_up
        if math.isclose(total * rising, 1):  # where OneCycleLR divides by zero
            rising *= 1.001
        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.rate, total_steps=total, pct_start=rising)
        self.model, self.optimizer, self.rates = self.accelerator.prepare(task.model, optimizer, rates)
        self.done, self.save_every = Progress(trainer.settings), trainer.save_every
        self.pending: list[Tensor] = []
        self.checkpoints: Checkpoints | None = None
        if trainer.folder is not None:
            self.checkpoints = Checkpoints(trainer.folder / "checkpoints" / name)
            self.open(trainer.restart)

    def open(self, restart: bool) -> None:
        """Goes on from the last checkpoint, if there is one to go on from."""
        assert self.checkpoints is not None
        if restart and self.accelerator.is_main_process:
            self.checkpoints.clear()
        self.accelerator.wait_for_everyone()
        found = self.checkpoints.read(self.done.settings, self.load)
        if found is not None:
            self.done = found
            self.tell(f"goes on after step {found.step} of {self.schedule.steps}")

    def go(self, interrupt: Interrupt) -> None:
        """Trains to the end, or to Ctrl-C."""
        start, steps = self.done.step, self.schedule.steps
        saved = self.resumed = time.monotonic()
        self.before = self.done.seconds
        for step in progress(range(start, steps), self.name, done=start):
            if self.finished:
                break
            self.pending.append(self.step(step))
            self.done.step = step + 1
            self.advance()
            if self.finished or (self.every and self.done.step % self.every == 0):
                self.evaluate()
            stop, late = self.agreed(interrupt.asked, time.monotonic() - saved >= self.save_every)
            if stop or late or self.finished:
                self.save()
                saved = time.monotonic()
            if stop:
                self.tell_of_interrupt()
                raise KeyboardInterrupt

    @property
    def finished(self) -> bool:
        """Whether the end of the schedule is reached."""
        return max(self.done.step, self.place) >= self.schedule.steps

    def advance(self) -> None:
        """Goes on along the schedule: by a step, or where time is short by more."""
        self.done.seconds = self.before + time.monotonic() - self.resumed
        if self.schedule.minutes is not None:
            gone = self.done.seconds / (60 * self.schedule.minutes)
            if self.accelerator.num_processes > 1:
                gone = float(self.accelerator.reduce(torch.tensor(gone, device=self.accelerator.device), "mean"))
            ahead = min(int(gone * self.schedule.steps), self.schedule.steps)
            self.rates.scheduler.last_epoch = max(self.place, ahead - 1)
        self.rates.step()

    @property
    def place(self) -> int:
        """Where in the schedule the training stands."""
        return self.rates.scheduler.last_epoch

    @property
    def every(self) -> int:
        return self.schedule.evaluate_every

    def step(self, step: int) -> Tensor:
        """One step of training; returns the mean loss of the batch."""
        self.model.train()
        processes, index = self.accelerator.num_processes, self.accelerator.process_index
        batch = self.task.batch(step)
        if processes > 1:
            batch = self.utils.recursively_apply(lambda rows: rows[index::processes], batch)
        batch = self.utils.send_to_device(batch, self.accelerator.device)
        total, count = self.task.loss(self.model, batch)
        if processes > 1:
            # Gradients are averaged over processes, where the loss is a mean over the rows of all.
            counts = self.accelerator.reduce(torch.tensor(float(count), device=total.device))
            loss = total / counts
            self.accelerator.backward(loss * processes)
            loss = self.accelerator.reduce(loss.detach())
        else:
            loss = total / count
            self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.schedule.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def evaluate(self) -> None:
        """Keeps the task's metrics."""
        self.flush()
        if self.accelerator.is_main_process:
            self.task.model.eval()
            with torch.no_grad():
                found = self.task.evaluate()
            self.done.metrics.append({"step": self.done.step, **found})
            recent = self.done.losses[-max(1, self.every) :]
            shown = [f"loss {sum(recent) / len(recent):.4f}", *(f"{k} {v:.4f}" for k, v in found.items())]
            self.tell(f"step {self.done.step} of {self.schedule.steps}: {', '.join(shown)}")

    def flush(self) -> None:
        """Fetches the losses from the device, all at once since each time it has to be waited for."""
        if self.pending:
            losses = torch.stack(self.pending).tolist()
            self.pending.clear()
            for step, loss in enumerate(losses, 1 + len(self.done.losses)):
                if not math.isfinite(loss):
                    raise UserError(f"{self.name}: the loss is {loss} at step {step}")
            self.done.losses += losses

    def save(self) -> None:
        """Writes a checkpoint."""
        self.flush()
        if self.checkpoints is None:
            return
        with self.checkpoints.writing():
            if self.accelerator.is_main_process:
                self.checkpoints.begin()
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(self.checkpoints.unfinished))
            torch.save(self.task.state_dict(), self.checkpoints.unfinished / self.task_file)
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                self.checkpoints.commit(self.done)
            self.accelerator.wait_for_everyone()

    def load(self, path: Path) -> None:
        """Takes back what :meth:`save` wrote."""
        self.accelerator.load_state(str(path))
        self.task.load_state_dict(torch.load(path / self.task_file, weights_only=True))

    @property
    def task_file(self) -> str:
        return f"task_{self.accelerator.process_index}.pt"

    def agreed(self, *flags: bool) -> list[bool]:
        """Each flag, raised if any process raises it: they must save at the same step."""
        if self.accelerator.num_processes == 1:
            return list(flags)
        raised = self.accelerator.reduce(torch.tensor(flags, dtype=torch.float32, device=self.accelerator.device))
        return [value > 0 for value in raised.tolist()]

    def tell(self, line: str) -> None:
        if self.accelerator.is_main_process:
            notice(f"{self.name}: {line}")

    def tell_of_interrupt(self) -> None:
        kept = "nothing is kept without --output"
        if self.checkpoints is not None:
            kept = f"the same command goes on from {self.checkpoints.last()}"
        self.tell(f"stopped after step {self.done.step} of {self.schedule.steps}; {kept}")


def _accelerate(device: str) -> Any:
    """The library, told which device to use: it reads that from the environment, once for a process."""
    accelerate = needs("accelerate", "recipes")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    place = torch.device(device)
    if place.index is not None:
        os.environ["ACCELERATE_TORCH_DEVICE"] = device
    else:
        os.environ.pop("ACCELERATE_TORCH_DEVICE", None)
    return accelerate


__all__ = ["Interrupt", "Progress", "Schedule", "Task", "Trainer", "generator"]
