"""A character-level language model, trained side by side with a layer of torch.nn's and with rnnfast's."""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._program import UserError, needs, read_text
from ..models import CELLS, LanguageModel

BATCH, LENGTH = 64, 50
TEMPERATURE = 0.8
# How far the two loss curves may be apart before the demo calls them different.
AGREEMENT = 1e-3


class Text(NamedTuple):
    """A text as indices into its alphabet."""

    alphabet: str
    characters: Tensor

    @classmethod
    def of(cls, text: str) -> Text:
        alphabet = "".join(sorted(set(text)))
        index = {c: i for i, c in enumerate(alphabet)}
        return cls(alphabet, torch.tensor([index[c] for c in text]))

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random windows, (BATCH, LENGTH), and the same shifted by one."""
        starts = torch.randint(0, len(self.characters) - LENGTH, (BATCH, 1), generator=generator)
        windows = self.characters[starts + torch.arange(LENGTH + 1)]
        return windows[:, :-1], windows[:, 1:]

    def decode(self, indices: list[int]) -> str:
        return "".join(self.alphabet[i] for i in indices)


class Run(NamedTuple):
    """One model in training, with its losses (nats per character) and the seconds that each step took."""

    name: str
    model: LanguageModel
    optimizer: torch.optim.Optimizer
    losses: list[float]
    seconds: list[float]

    @classmethod
    def start(cls, name: str, cell: str, layers: str, vocabulary: int, seed: int) -> Run:
        torch.manual_seed(seed)
        model = LanguageModel(vocabulary, 64, 128, cell=cell, num_layers=2, dropout=0.2, layers=layers)
        return cls(name, model, torch.optim.Adam(model.parameters(), lr=0.003), [], [])

    def step(self, inputs: Tensor, targets: Tensor, seed: int) -> None:
        torch.manual_seed(seed)  # the same dropout masks for every run
        begin = time.perf_counter()
        logits, _ = self.model(inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - begin)
        self.losses.append(loss.item())

    @property
    def speed(self) -> float:
        """Characters per second, by the median step."""
        return BATCH * LENGTH / statistics.median(self.seconds)


def text_to_learn(path: Path | None) -> str:
    """The given file, or English text that ships with Python: the reference behind its ``help()``."""
    if path is None:
        from pydoc_data.topics import topics

        return "\n".join(topics.values())
    text = read_text(path, "--text")
    if len(text) <= LENGTH + 1:
        raise UserError(f"--text: {path} has {len(text)} characters, expected more than {LENGTH + 1}")
    return text


def draw_curves(runs: list[Run], path: Path) -> None:
    """Loss by step, where the curves coincide, and by time, where the faster one leads."""
    from itertools import accumulate

    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    by_step, by_time = figure.subplots(1, 2, sharey=True)
    styles: list[dict[str, Any]] = [dict(color="0.7", linewidth=4), dict(color="C3", linewidth=1)]
    for run, style in zip(runs, styles, strict=True):
        by_step.plot(run.losses, label=run.name, **style)
        by_time.plot(list(accumulate(run.seconds)), run.losses, label=run.name, **style)
    by_step.set(xlabel="step", ylabel="loss (nats per character)", title="Same numbers")
    by_time.set(xlabel="seconds in training", title=f"{runs[1].speed / runs[0].speed:.2f} times as fast")
    by_step.legend()
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise UserError(f"--output: cannot write {path}: {error.strerror}") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m rnnfast demo``."""
    parser.add_argument("--cell", default="rnn", help=f"of the layers: {', '.join(CELLS)} (default: %(default)s)")
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="UTF-8 text to learn (default: Python's own help)"
    )
    parser.add_argument(
        "--steps", type=int, default=600, help="training steps of each model (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of weights, batches and dropout (default: %(default)s)"
    )
    parser.add_argument(
        "--sample", type=int, default=300, metavar="N", help="characters to draw (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("rnnfast-demo.png"),
        metavar="PNG",
        help="loss curves (default: %(default)s)",
    )


def main(options: argparse.Namespace) -> int:
    """Trains both models in turn, compares and draws. Returns the exit status: 0 if the curves agree."""
    canvas, tqdm = needs("matplotlib.backend_bases", "demo").FigureCanvasBase, needs("tqdm", "demo").tqdm
    if options.cell not in CELLS:
        raise UserError(f"--cell: got {options.cell}, expected one of {', '.join(CELLS)}")
    for name, least in (("steps", 1), ("sample", 0)):
        if getattr(options, name) < least:
            raise UserError(f"--{name}: got {getattr(options, name)}, expected at least {least}")
    formats = canvas.get_supported_filetypes()
    if options.output.suffix.removeprefix(".").lower() not in formats:
        raise UserError(f"--output: got {options.output}, expected a name that ends in .png, .pdf or .svg")
    if not options.output.absolute().parent.is_dir():
        raise UserError(f"--output: {options.output.absolute().parent} is not a folder")
    text = Text.of(text_to_learn(options.text))
    print(
        f"{len(text.characters):,} characters, {len(text.alphabet)} different; {torch.get_num_threads()} threads"
    )

    kind = options.cell.upper()
    layers = {f"torch.nn.{kind}": "torch", f"rnnfast.{kind}": "rnnfast"}
    runs = [
        Run.start(name, options.cell, whose, len(text.alphabet), options.seed) for name, whose in layers.items()
    ]
    generator = torch.Generator().manual_seed(options.seed)
    try:
        # In turn, so that whatever else the machine does meets both.
        with tqdm(range(options.steps), unit="step", mininterval=0.5) as progress:
            for step in progress:
                batch = text.batch(generator)
                for run in runs:
                    run.step(*batch, seed=options.seed + step)
                progress.set_postfix({run.name: f"{run.losses[-1]:.4f}" for run in runs}, refresh=False)
    except KeyboardInterrupt:
        done = min(len(run.losses) for run in runs)
        if done == 0:
            raise
        print(f"stopped after {done} of {options.steps} steps")
        for run in runs:
            del run.losses[done:], run.seconds[done:]

    plain, fast = runs
    print(f"{'':14}{'first loss':>12}{'last loss':>12}{'characters/s':>16}")
    for run in runs:
        print(f"{run.name:14}{run.losses[0]:12.4f}{run.losses[-1]:12.4f}{run.speed:16,.0f}")
    apart = max(abs(a - b) for a, b in zip(plain.losses, fast.losses, strict=True))
    agree = apart <= AGREEMENT
    print(f"ratio {fast.speed / plain.speed:.2f}; the loss curves {'agree' if agree else 'DIFFER'}: ", end="")
    print(f"at most {apart:.1e} apart")

    if options.sample:
        torch.manual_seed(options.seed)
        (drawn,) = fast.model.generate(text.characters[None, :LENGTH], options.sample, temperature=TEMPERATURE)
        print(f"\nA sample at temperature {TEMPERATURE}:\n{text.decode(drawn)}\n")
    draw_curves(runs, options.output)
    print(f"curves: {options.output}")
    return 0 if agree else 1
