"""An amplifier's sound, learned from samples and applied to a stream of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..._program import Result, UserError, progress, setting
from ...lab.figures import panels
from ...models import CELLS, StreamingFilter
from ..recipe import Recipe, load_model
from ..training import Schedule, Task, generator
from . import overdrive, wav

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATE = 44_100  # samples in a second, of what the program makes up itself
WARM_UP = 128  # samples of a sequence that are only listened to
PRE_EMPHASIS = 0.85  # of the loss, for treble to count as it is heard
TAPS = 64  # of the linear filter that is compared with
NAME = "amplifier"


@dataclass(frozen=True)
class Pair:
    """A signal before and after what is to be learned: dry and wet, (T,), `rate` samples in a second."""

    dry: Tensor
    wet: Tensor
    rate: int

    def split(self, share: float) -> tuple[Pair, Pair]:
        """The beginning and the rest."""
        at = int(len(self.dry) * share)
        return Pair(self.dry[:at], self.wet[:at], self.rate), Pair(self.dry[at:], self.wet[at:], self.rate)


class AmplifierTask(Task):
    """Pieces of a pair.

    Args:
        train, held_out: to learn from, and not; length: samples of a piece, besides those to warm up.
    """

    def __init__(
        self, model: StreamingFilter, train: Pair, held_out: Pair, batch_size: int, length: int, seed: int
    ) -> None:
        super().__init__(model)
        self.train, self.held_out, self.batch_size, self.length, self.seed = (
            train,
            held_out,
            batch_size,
            length,
            seed,
        )
        self.power = float(emphasised(train.wet[None]).square().mean())

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Pieces from anywhere, (B, T) twice."""
        steps, last = WARM_UP + self.length, len(self.train.dry) - WARM_UP - self.length
        starts = torch.randint(last + 1, (self.batch_size, 1), generator=generator(self.seed, step))
        places = starts + torch.arange(steps)
        return self.train.dry[places], self.train.wet[places]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
        """Squared errors of pre-emphasised samples, over the mean square of what is to be learned."""
        dry, wet = batch
        errors = emphasised((model(dry)[0] - wet)[:, WARM_UP:])
        return errors.square().sum() / self.power, errors.numel()

    def evaluate(self) -> dict[str, float]:
        """On what was held out."""
        filtered = offline(self.model, self.held_out.dry)
        return {"error": error_to_signal(filtered, self.held_out.wet)}


@dataclass(frozen=True)
class Amplifier(Recipe):
    """Learns what an amplifier does to a signal, and does it to a stream of blocks, in real time.

    A recurrence over samples (Wright et al., DAFx 2019). Without recordings of yours it learns from plucked
    strings and an overdriven amplifier of its own making. What was streamed is compared with what the whole
    signal gives in one call: the two have the same bits.
    """

    section = "RNN Applications"
    examples = (
        "--block 1 --seconds 20",
        "--input dry.wav --target wet.wav --output mine",
        "--checkpoint mine/model.pt --apply song.wav",
    )

    input: Path | None = setting(None, "recording to learn from, mono, before the amplifier", metavar="WAV")
    target: Path | None = setting(None, "the same after it, as long and at the same rate", metavar="WAV")
    apply: Path | None = setting(None, "recording to filter (default: the end, held out)", metavar="WAV")
    checkpoint: Path | None = setting(None, "a model.pt to filter with, without training", metavar="FILE")
    block: int = setting(64, "samples that come at a time", least=1)
    seconds: float = setting(40.0, "of made-up signal to learn from, where none is given", least=1)
    cell: str = setting("lstm", "of the layer", choices=CELLS)
    hidden_size: int = setting(24, "units", least=1)
    steps: int = setting(800, "of training", least=1)
    batch_size: int = setting(32, "pieces of a step", least=1)
    length: int = setting(512, "samples of a piece", least=2)
    rate: float = setting(1e-2, "highest learning rate", least=0)

    def settings(self) -> dict[str, Any]:
        """As plain data, without what is not training's."""
        found = {n: v for n, v in super().settings().items() if n not in ("apply", "checkpoint", "block")}
        return {name: str(value) if isinstance(value, Path) else value for name, value in found.items()}

    def run(self) -> Result:
        """Trains a model or reads one, and has it filter a signal in blocks."""
        lines: list[str] = []
        data: dict[str, Any] = {"settings": self.settings()}
        applied = None if self.apply is None else wav.read("--apply", self.apply)
        if self.checkpoint is None:
            train, held_out = self.pair().split(0.8)
            signal = self.fitting(applied, train.rate, held_out.dry)
            task = self.train(train, held_out)
            model, rate = task.model, train.rate
            errors = data["error to signal"] = compared(task)
            lines = ["error over signal, held out:  " + "  ".join(f"{k}: {v:.4f}" for k, v in errors.items()), ""]
        else:
            held_out, (model, rate) = None, self.loaded()
            signal = self.fitting(applied, rate)
        streamed, seconds = timed(model, signal, self.block)
        apart = float((streamed - offline(model, signal)).abs().max())
        times = in_time(seconds, self.block / rate)
        data |= {"samples a second": rate, "block": self.block, "streamed and whole apart": apart, **times}
        lines += [
            f"{len(signal):,} samples at {rate} Hz in blocks of {self.block}, "
            f"{1e6 * self.block / rate:.0f} us of sound each, {times['times real time']:.1f} times real time:",
            f"  time for a block: mean {times['mean us']:.0f} us, half within {times['median us']:.0f} us, 99 % "
            f"within {times['p99 us']:.0f} us, {times['late']:.2%} late",
            "  beside the whole signal in one call: " + (f"{apart:.1e} apart" if apart else "the same bits"),
        ]
        written = {"filtered": streamed, "dry": signal}
        if held_out is not None and self.apply is None:
            written["target"] = held_out.wet
        if self.output is not None:
            for name, samples in written.items():
                wav.write(self.output / f"{name}.wav", samples, rate)
            lines.append(f"  to listen to: {', '.join(f'{name}.wav' for name in written)} in {self.output}")
        figures = {NAME: partial(draw, written, rate, seconds, self.block / rate)}
        return Result("\n".join(lines), data, figures, ok=apart < 1e-5)

    def train(self, train: Pair, held_out: Pair) -> AmplifierTask:
        """The task with its trained model."""
        if len(train.dry) < WARM_UP + self.length:
            raise UserError(
                f"--length: got {self.length}, expected at most {len(train.dry) - WARM_UP}, for there are "
                f"{len(train.dry)} samples to learn from"
            )
        if not bool(train.wet.any()) or not bool(held_out.wet.any()):
            raise UserError("--target: is silent, expected something to learn")
        torch.manual_seed(self.seed)
        model = StreamingFilter(self.hidden_size, cell=self.cell, layers=self.layers)
        task = AmplifierTask(model, train, held_out, self.batch_size, self.length, self.seed)
        schedule = Schedule(self.steps, self.rate, weight_decay=0.0, evaluate_every=max(1, self.steps // 4))
        self.trainer().train(task, schedule, NAME)
        self.save_model(NAME, [task.model], rate=train.rate)
        return task

    def loaded(self) -> tuple[StreamingFilter, int]:
        """A model and its rate."""
        assert self.checkpoint is not None
        content = load_model(self.checkpoint, NAME)
        trained = content["settings"]
        model = StreamingFilter(trained["hidden_size"], cell=trained["cell"], layers=self.layers)
        model.load_state_dict(content["weights"][0])
        return model.to(self.device).eval(), content["rate"]

    def pair(self) -> Pair:
        """What is learned from."""
        if (self.input is None) != (self.target is None):
            raise UserError("--input and --target: got one of them, expected both")
        if self.input is None or self.target is None:
            dry = overdrive.plucks(self.seconds, RATE, generator(self.seed, 0))
            return Pair(dry, overdrive.overdrive(dry, RATE), RATE)
        (dry, rate), (wet, other) = wav.read("--input", self.input), wav.read("--target", self.target)
        if rate != other:
            raise UserError(f"--target: {self.target} has {other} Hz, expected {rate} as --input has")
        if len(dry) != len(wet):
            raise UserError(f"--target: {self.target} has {len(wet)} samples, expected {len(dry)} as --input has")
        return Pair(dry, wet, rate)

    def fitting(self, applied: tuple[Tensor, int] | None, rate: int, other: Tensor | None = None) -> Tensor:
        """What is filtered in the end, as it was read, or another signal."""
        if applied is None:
            if other is None:
                raise UserError("--checkpoint: got one without --apply, expected a WAV file to filter")
            return other
        if applied[1] != rate:
            raise UserError(f"--apply: {self.apply} has {applied[1]} Hz, expected {rate} as what is learned from")
        return applied[0]


def emphasised(samples: Tensor) -> Tensor:
    """Treble raised: (B, T) to (B, T - 1)."""
    return samples[:, 1:] - PRE_EMPHASIS * samples[:, :-1]


def error_to_signal(found: Tensor, wanted: Tensor) -> float:
    """The energy of the error over that of what was wanted; 1 for silence."""
    return float((found - wanted).square().sum() / wanted.square().sum())


def compared(task: AmplifierTask) -> dict[str, float]:
    """Errors over signal: of the model, of the best linear filter and of nothing done at all."""
    train, held_out = task.train, task.held_out
    linear = overdrive.convolved(held_out.dry, overdrive.best_linear(train.dry, train.wet, TAPS))
    found = {"model": task.evaluate()["error"], "best linear filter": error_to_signal(linear, held_out.wet)}
    return found | {"unfiltered": error_to_signal(held_out.dry, held_out.wet)}


def offline(model: Any, signal: Tensor) -> Tensor:
    """A whole signal (T,) in one call."""
    place = next(model.parameters()).device
    return model.step(signal[None].to(place))[0][0].cpu()


def timed(model: Any, signal: Tensor, block: int) -> tuple[Tensor, list[float]]:
    """A signal (T,) as it comes, a block at a time, and the seconds that each took."""
    place = next(model.parameters()).device
    model.step(signal[None, :block].to(place))  # what is done once, at the first call, is not timed
    filtered, seconds, state = [], [], None
    for part in progress(signal[None].split(block, 1), "streaming", "block"):
        begin = time.perf_counter()
        result, state = model.step(part.to(place), state)
        filtered.append(result.cpu())
        seconds.append(time.perf_counter() - begin)
    return torch.cat(filtered, 1)[0], seconds


def in_time(seconds: list[float], budget: float) -> dict[str, float]:
    """How the times for blocks compare with how long a block sounds."""
    times = torch.tensor(seconds, dtype=torch.float64)
    return {
        "budget us": 1e6 * budget,
        "median us": 1e6 * float(times.median()),
        "mean us": 1e6 * float(times.mean()),
        "p99 us": 1e6 * float(times.sort()[0][int(0.99 * (len(times) - 1))]),
        "late": float((times > budget).double().mean()),
        "times real time": budget / float(times.mean()),
    }


def draw(signals: dict[str, Tensor], rate: int, seconds: list[float], budget: float) -> Figure:
    """Signals just after the loudest sample, and the times that blocks took."""
    figure, (wave, times) = panels(2, 1, height=7.0)
    window = min(len(signals["dry"]), round(0.008 * rate))
    begin = min(int(signals["dry"].abs().argmax()) + 2 * window, len(signals["dry"]) - window)
    styles: dict[str, dict[str, Any]] = {
        "dry": dict(color="0.7"),
        "target": dict(color="C0", linewidth=3, alpha=0.5),
        "filtered": dict(color="C3", linewidth=1),
    }
    milliseconds = torch.arange(window) / rate * 1e3
    for name, style in styles.items():
        if name in signals:
            wave.plot(milliseconds, signals[name][begin : begin + window], label=name, **style)
    wave.set(xlabel="ms", ylabel="sample", title="Signals, a moment after the loudest")
    wave.legend(loc="upper right")
    logarithms = torch.tensor(seconds).mul(1e6).log10()
    low, high = min(float(logarithms.min()), 1.0), max(float(logarithms.max()), 3.5)
    times.hist(torch.tensor(seconds).mul(1e6), bins=torch.logspace(low, high, 80).tolist(), color="C3", log=True)
    times.axvline(1e6 * budget, color="0.3", linestyle="--", label="how long a block sounds")
    times.set(xscale="log", xlabel="time for a block, us", ylabel="blocks", title="Real time")
    times.legend()
    return figure


__all__ = ["Amplifier", "AmplifierTask", "Pair", "draw"]
