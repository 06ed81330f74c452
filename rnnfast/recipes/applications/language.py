"""Language models, of characters or of words: what they have in common."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..._program import Result, UserError, read_text, setting
from ...lab.figures import panels
from ...models import CELLS, LanguageModel, detached
from .. import data
from ..training import Progress, Schedule, Task, generator
from ..vocabulary import UNKNOWN, Vocabulary
from .application import Application, Prediction
from .curves import plot_losses

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HELD_OUT = 0.1
TEMPERATURE = 0.8
CHUNK = 2000  # steps at a time where nothing is trained
BEFORE = "\0"  # what comes before a token's first character, for spelling
SPECIAL = 2  # tokens that stand for no text


class LanguageTask(Task):
    """Goes along a text in as many rows as a batch has, states carried from chunk to chunk.

    Args:
        tokens, held_out: (N,) int64, of the text.
        length: steps of a chunk, through which gradients flow.
        hide: probability of hiding a token from the model, for it not to learn the text by heart.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokens: Tensor,
        held_out: Tensor,
        batch_size: int,
        length: int,
        seed: int,
        hide: float,
    ) -> None:
        super().__init__(model)
        self.tokens, self.held_out, self.seed, self.hide = tokens, held_out, seed, hide
        self.batch_size, self.length = batch_size, length
        self.per_epoch = (len(tokens) // batch_size - 1) // length
        self.state: Any = None

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Tokens (B, T), and those that follow them; another epoch begins with the text shifted."""
        epoch, chunk = divmod(step, self.per_epoch)
        if chunk == 0:
            self.state = None
        width = len(self.tokens) // self.batch_size
        shift = int(torch.randint(self.length, (), generator=generator(self.seed, epoch)))
        rows = self.tokens.roll(-shift)[: width * self.batch_size].view(self.batch_size, width)
        begin = chunk * self.length
        given, following = rows[:, begin : begin + self.length], rows[:, begin + 1 : begin + self.length + 1]
        if self.hide:
            hidden = torch.rand(given.shape, generator=generator(self.seed + 1, step)) < self.hide
            given = given.masked_fill(hidden, UNKNOWN)
        return given, following

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
        """Cross-entropy of what follows."""
        given, following = batch
        logits, last = model(given, self.state)
        self.state = detached(last)
        return F.cross_entropy(
            logits.flatten(0, 1).float(), following.flatten(), reduction="sum"
        ), following.numel()

    def evaluate(self) -> dict[str, float]:
        """Nats per token of the held-out text."""
        return {"held out": float(surprise(self.model, self.held_out).mean())}

    def state_dict(self) -> dict[str, Any]:
        """The rows' states."""
        return {"state": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes them back."""
        self.state = state["state"]


@torch.no_grad()
def surprise(model: nn.Module, tokens: Tensor) -> Tensor:
    """-log p of each token but the first, given all before it: (N,) to (N - 1,)."""
    place, state, found = next(model.parameters()).device, None, []
    for begin in range(0, len(tokens) - 1, CHUNK):
        piece = tokens[begin : begin + CHUNK + 1].to(place)
        logits, state = model(piece[None, :-1], state)
        found.append(F.cross_entropy(logits[0].float(), piece[1:], reduction="none").cpu())
    return torch.cat(found)


class Spelling:
    r"""What it costs to spell tokens that a vocabulary lacks: each character after two others, and an end.

    .. math::
        p(c \mid context) = \frac{n(context, c) + k \, p(c \mid shorter\ context)}{n(context) + k}

    with k the number of characters that were seen to follow (Witten and Bell, "The zero-frequency problem", IEEE
    Transactions on Information Theory 37, 1991), and all alike where there is no context. With it a model of words
    can be compared with one of characters: both give each text a probability.

    Args:
        tokens: such as the rare ones of the training text, to count characters of.
    """

    CONTEXT = 2

    def __init__(self, tokens: list[str]) -> None:
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        for token in tokens:
            for before, character in self._steps(token):
                for k in range(self.CONTEXT + 1):
                    self.counts[before[len(before) - k :]][character] += 1
        self.kinds = len(self.counts[""]) + 1  # and one for all that were never seen

    def __call__(self, token: str) -> float:
        """-log p of a token's characters."""
        return -sum(math.log(self._p(before, character)) for before, character in self._steps(token))

    def _steps(self, token: str) -> list[tuple[str, str]]:
        """Each character with those before it; the end is an empty one."""
        whole = BEFORE * self.CONTEXT + token
        return [(whole[i : i + self.CONTEXT], c) for i, c in enumerate((*token, ""))]

    def _p(self, before: str, character: str) -> float:
        shorter = self._p(before[1:], character) if before else 1 / self.kinds
        found = self.counts.get(before)
        if not found:
            return shorter
        return (found[character] + len(found) * shorter) / (found.total() + len(found))


@dataclass(frozen=True)
class PredictLanguage(Prediction):
    """Continues a text."""

    expects = "a beginning to be continued"
    split: ClassVar[Any]

    length: int = setting(400, "tokens to add", least=1)
    temperature: float = setting(TEMPERATURE, "lower is more careful, higher more daring", least=1e-6)
    top_k: int | None = setting(None, "draw among so many of the most probable only", least=1)

    def load(self, content: dict[str, Any]) -> list[nn.Module]:
        """The model; its vocabulary has as many tokens as there are."""
        model = network(content["settings"], Vocabulary(content["vocabulary"]))
        return [self.ready(model, content["weights"][0])]

    def answer(self, content: dict[str, Any], models: list[Any]) -> Result:
        """The continuation."""
        vocabulary, begin = Vocabulary(content["vocabulary"]), self.text()
        tokens = torch.tensor(vocabulary.encode(type(self).split(begin)))
        added = continued(models[0], vocabulary, tokens, self.length, self.temperature, self.top_k)
        numbers: dict[str, Any] = {"beginning": begin, "continuation": added}
        if len(tokens) > 1:
            numbers["nats per token of the beginning"] = float(surprise(models[0], tokens).mean())
        pieces = type(self).split(begin + added)
        nats = surprise(models[0], torch.tensor(vocabulary.encode(pieces)))
        title = f"After {pieces[0]!r}: how unexpected each token is"
        return Result(begin + added, numbers, {"surprise": partial(draw_surprise, pieces[1:], nats, title)})


def continued(
    model: LanguageModel,
    vocabulary: Vocabulary,
    tokens: Tensor,
    length: int,
    temperature: float,
    top_k: int | None,
) -> str:
    """Text that a model draws after tokens (N,); never one that stands for no text."""
    bias = model.readout.bias.detach().clone()
    prompt = tokens[None, -CHUNK:].to(bias.device)
    with torch.no_grad():
        model.readout.bias[:SPECIAL] = -1e9
        (drawn,) = model.generate(prompt, length, temperature=temperature, top_k=top_k)
        model.readout.bias.copy_(bias)
    return "".join(vocabulary.decode(drawn))


def network(settings: dict[str, Any], vocabulary: Vocabulary) -> LanguageModel:
    """An untrained model."""
    return LanguageModel(
        len(vocabulary),
        settings["embedding_size"],
        settings["hidden_size"],
        cell=settings["cell"],
        num_layers=settings["num_layers"],
        dropout=settings["dropout"],
        layers=settings["layers"],
    )


class Trained(NamedTuple):
    """What training leaves: the task, its vocabulary, the text held out, and what rare tokens look like."""

    task: LanguageTask
    vocabulary: Vocabulary
    held_out: str
    spelling: Spelling
    progress: Progress


@dataclass(frozen=True)
class Language(Application):
    """Learns to predict what comes next in a text; its last tenth is held out."""

    prediction: ClassVar[type[PredictLanguage]]
    name: ClassVar[str] = ""
    least: ClassVar[int] = 1

    cell: str = setting("gru", "of the layers", choices=CELLS)
    text: Path | None = setting(None, "UTF-8 text to learn (default: tinyshakespeare)", metavar="FILE")
    num_layers: int = setting(1, "recurrences on one another", least=1)
    hidden_size: int = setting(384, "units", least=1)
    embedding_size: int = setting(64, "features of a token", least=1)
    dropout: float = setting(0.2, "share of values dropped between layers", least=0, most=1)
    hide: float = setting(0.0, "share of tokens hidden in training", least=0, most=1)
    epochs: int = setting(5, "times that the text is gone through", least=1)
    batch_size: int = setting(32, "rows that the text is cut into", least=1)
    length: int = setting(100, "steps through which gradients flow", least=1)
    rate: float = setting(4e-3, "highest learning rate", least=0)

    def fit(self) -> Trained:
        """Trains a model."""
        text = self.read()
        cut = len(text) - int(HELD_OUT * len(text))
        split = self.prediction.split
        counts = Counter(split(text[:cut]))
        vocabulary = Vocabulary(token for token, n in counts.most_common() if n >= self.least)
        spelling = Spelling([token for token, n in counts.items() if n == 1] or list(counts))
        tokens, held_out = (torch.tensor(vocabulary.encode(split(part))) for part in (text[:cut], text[cut:]))
        needed = self.batch_size * (self.length + 2)
        if len(tokens) < needed or len(held_out) < 2:
            raise UserError(
                f"--text: {len(tokens):,} tokens to train on, expected at least {needed:,}: "
                "a longer text, or a lower --batch-size or --length"
            )
        torch.manual_seed(self.seed)
        model = network(self.settings(), vocabulary)
        task = LanguageTask(model, tokens, held_out, self.batch_size, self.length, self.seed, self.hide)
        steps = self.epochs * task.per_epoch
        schedule = Schedule(steps, self.rate, evaluate_every=max(1, steps // 10), minutes=self.minutes)
        progress = self.trainer().train(task, schedule, self.name)
        return Trained(task, vocabulary, text[cut:], spelling, progress)

    def read(self) -> str:
        """The text."""
        if self.text is not None:
            return read_text(self.text, "--text")
        return read_text(data.find("tinyshakespeare", self.data).files["input.txt"], "data")

    def report(self, trained: Trained) -> Result:
        """Saves the model, and has it judge the held-out text and write one."""
        task, vocabulary, text, spelling, progress = trained
        model: Any = task.model
        self.save_model(self.name, [model], vocabulary=vocabulary.tokens)
        pieces = self.prediction.split(text)
        nats = surprise(model, task.held_out)
        known = task.held_out[1:] != UNKNOWN
        spelt = sum(spelling(piece) for piece, there in zip(pieces[1:], known.tolist(), strict=True) if not there)
        characters = len(text) - len(pieces[0])
        each, unknown = (float(nats.sum()) + spelt) / characters, 1 - float(known.float().mean())
        torch.manual_seed(self.seed)
        sample = continued(model, vocabulary, task.held_out[:100], 500, TEMPERATURE, None)
        lines = [
            f"{len(task.tokens):,} tokens, {len(vocabulary.tokens):,} different; on {len(nats):,} held-out ones:",
            f"  {each:.3f} nats per character ({each / math.log(2):.3f} bits)",
            f"  perplexity {float(nats.mean().exp()):.1f} per token; {unknown:.1%} unknown",
            f"  {progress.step} steps in {progress.seconds:.0f} s",
            "",
            f"A sample at temperature {TEMPERATURE}:",
            sample.strip("\n"),
        ]
        numbers = {
            "settings": self.settings(),
            "nats per character": each,
            "nats per token": float(nats.mean()),
            "unknown": unknown,
            "tokens": len(vocabulary.tokens),
            "curve": progress.metrics,
            "losses": progress.losses,
            "steps": progress.step,
            "seconds": progress.seconds,
            "sample": sample,
        }
        figures = {
            "surprise": partial(draw_surprise, pieces[1:], nats, f"{self.name}: {each:.3f} nats per character"),
            "curve": partial(draw_curve, progress, self.name),
        }
        return Result("\n".join(lines), numbers, figures)


def draw_curve(progress: Progress, name: str) -> Figure:
    """Loss in training and on held-out text."""
    figure, (axes,) = panels()
    plot_losses(axes, progress, "held out")
    axes.set(ylabel="nats per token", title=f"{name}: learning")
    return figure


def draw_surprise(pieces: list[str], nats: Tensor, title: str, rows: int = 16, width: int = 56) -> Figure:
    """The beginning of a text, each token on a ground the darker the less it was expected."""
    figure, (axes,) = panels(height=5.5)
    axes.grid(False)
    ground = torch.zeros(rows, width)
    row = column = 0
    for piece, cost in zip(pieces, nats.tolist(), strict=False):
        for character in piece:
            if character == "\n" or column == width:
                row, column = row + 1, 0
            if row == rows:
                break
            if character != "\n":
                ground[row, column] = cost / len(piece)
                color = "white" if cost / len(piece) > 3.5 else "black"
                axes.text(column, row, character, ha="center", va="center", family="monospace", color=color)
                column += 1
        if row == rows:
            break
    image = axes.imshow(ground.numpy(), cmap="Oranges", vmin=0, vmax=6, aspect="auto")
    figure.colorbar(image, label="nats per character", shrink=0.8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set(xlabel="text, from left to right", ylabel="lines", title=title)
    return figure


__all__ = ["Language", "LanguageTask", "PredictLanguage", "Spelling", "continued", "surprise"]
