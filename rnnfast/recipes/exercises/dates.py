"""Exercise 4: dates as people write them, converted to ISO 8601."""

from __future__ import annotations

import datetime
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..._program import Result, setting
from ...lab.figures import draw_attention, panels
from ...lab.report import table
from ...models import CELLS, Seq2Seq
from ...models.attention import ATTENTIONS
from ..recipe import Recipe
from ..training import Schedule, Task
from ..vocabulary import padded
from .calendar import END, EXAMPLE, START, STYLES, Calendar, split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ISO_LENGTH = len("2023-01-15")
Form = tuple[str, str]  # locale and style


class DatesTask(Task):
    """Random days in random forms.

    Args:
        calendar: writes them; days: to train on; held_out: to evaluate on.
    """

    def __init__(
        self,
        calendar: Calendar,
        model: Seq2Seq,
        days: list[datetime.date],
        held_out: list[datetime.date],
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__(model)
        self.calendar, self.days, self.held_out = calendar, days, held_out
        self.batch_size, self.seed = batch_size, seed

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sources, their lengths, and targets with start and end token."""
        draw = random.Random(f"{self.seed} {step}")
        days = draw.choices(self.days, k=self.batch_size)
        sources = []
        for day in days:
            locale, style = draw.choice(list(self.calendar.locales)), draw.choice(STYLES)
            sources.append(self.calendar.encode(self.calendar.write(day, locale, style), locale))
        targets = torch.tensor([self.calendar.encode_iso(day) for day in days])
        return *padded(sources), targets

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, int]:
        """Cross-entropy of the target's characters and its end."""
        source, lengths, target = batch
        logits = model(source, target[:, :-1], lengths)
        wanted = target[:, 1:].flatten()
        return F.cross_entropy(logits.flatten(0, 1), wanted, reduction="sum"), wanted.numel()

    def evaluate(self) -> dict[str, float]:
        """Exact matches on some held-out days, over all forms."""
        days = self.held_out[:50]
        found = [self.matches(form, days) for form in self.forms()]
        return {"exact": sum(found) / len(found)}

    def forms(self) -> list[Form]:
        """All locales in all styles."""
        return [(locale, style) for locale in self.calendar.locales for style in STYLES]

    def matches(self, form: Form, days: list[datetime.date]) -> float:
        """The share of days that are converted without an error."""
        answers = self.convert([self.calendar.write(day, *form) for day in days], form[0])
        return sum(a == day.isoformat() for a, day in zip(answers, days, strict=True)) / len(days)

    def convert(self, texts: list[str], locale: str) -> list[str]:
        """What the model makes of written dates."""
        target, answers = self.calendar.target, []
        place = next(self.model.parameters()).device
        for begin in range(0, len(texts), 500):
            source, lengths = padded([self.calendar.encode(t, locale) for t in texts[begin : begin + 500]])
            model: Any = self.model
            written = model.decode(
                source.to(place), lengths, start=target[START], end=target[END], max_length=ISO_LENGTH + 1
            )
            answers += [self.calendar.decode_iso(numbers) for numbers in written]
        return answers


@dataclass(frozen=True)
class Dates(Recipe):
    """Learns to convert dates such as January 15, 2023 to 2023-01-15, from several languages.

    Days are those of 1969 to 2068; one in ten is held out, in all forms.
    """

    section = "Exercise 4: Sequence-to-Sequence"
    examples = ("--locales en_US ja_JP", "--attention bahdanau", "--cell lstm --attention none --steps 3000")

    cell: str = setting("gru", "of encoder and decoder", choices=CELLS)
    attention: str = setting("luong", "of the decoder to the encoder", choices=("none", *ATTENTIONS))
    locales: tuple[str, ...] = setting(
        ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "pt_BR", "pl_PL", "ru_RU"),
        "languages and countries",
        metavar="LOCALE",
    )
    hidden_size: int = setting(128, "units", least=1)
    embedding_size: int = setting(32, "features of a character", least=1)
    steps: int = setting(1200, "of training", least=1)
    batch_size: int = setting(64, "dates of a step", least=1)
    rate: float = setting(4e-3, "highest learning rate", least=0)

    def run(self) -> Result:
        """Trains a model and converts held-out days with it."""
        calendar = Calendar(self.locales)
        days, held_out = split(self.seed)
        task = DatesTask(calendar, self.model(calendar), days, held_out, self.batch_size, self.seed)
        schedule = Schedule(self.steps, self.rate, weight_decay=0.0, evaluate_every=max(1, self.steps // 8))
        trained = self.trainer().train(task, schedule, "dates")
        vocabulary = {"source": calendar.source.tokens, "target": calendar.target.tokens}
        self.save_model("dates", [task.model], vocabulary=vocabulary)
        matches = {form: task.matches(form, held_out[:1000]) for form in task.forms()}
        rows = [[locale, *(f"{matches[locale, s]:.1%}" for s in STYLES)] for locale in calendar.locales]
        heading = f"exact matches on {min(1000, len(held_out))} held-out days:"
        lines = [heading, "", table(["", *STYLES], rows), "", *examples(task)]
        data = {
            "settings": self.settings(),
            "exact": {locale: {s: matches[locale, s] for s in STYLES} for locale in calendar.locales},
            "mean": sum(matches.values()) / len(matches),
            "curve": trained.metrics,
        }
        figures = {"exact": lambda: draw_matches(matches)}
        if self.attention != "none":
            figures["attention"] = lambda: draw_example(task)
        return Result("\n".join(lines), data, figures)

    def model(self, calendar: Calendar) -> Seq2Seq:
        """An untrained one."""
        torch.manual_seed(self.seed)
        return Seq2Seq(
            len(calendar.source),
            len(calendar.target),
            self.embedding_size,
            self.hidden_size,
            cell=self.cell,
            bidirectional=True,
            attention=None if self.attention == "none" else self.attention,
            layers=self.layers,
        )


def examples(task: DatesTask) -> list[str]:
    """The text's own, and one of each locale."""
    lines = []
    for n, locale in enumerate(task.calendar.locales):
        day, style = (EXAMPLE, "long") if n == 0 else (task.held_out[n], STYLES[n % len(STYLES)])
        text = task.calendar.write(day, locale, style)
        (answer,) = task.convert([text], locale)
        lines.append(f"  {locale:6} {text:34} {answer}" + ("" if answer == day.isoformat() else f"   ({day})"))
    return lines


def draw_matches(matches: dict[Form, float]) -> Figure:
    """Exact matches, a cell for each locale and style."""
    locales = list(dict.fromkeys(locale for locale, _ in matches))
    figure, (axes,) = panels(height=1.5 + 0.4 * len(locales))
    axes.grid(False)
    values = [[100 * matches[locale, style] for style in STYLES] for locale in locales]
    image = axes.imshow(values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(STYLES)), STYLES)
    axes.set_yticks(range(len(locales)), locales)
    axes.set(xlabel="style", ylabel="locale", title="Dates converted without an error, held-out days")
    for row, shares in enumerate(values):
        for column, share in enumerate(shares):
            color = "black" if share > 60 else "white"
            axes.text(column, row, f"{share:.1f}", ha="center", va="center", color=color)
    figure.colorbar(image, label="exact matches, %")
    return figure


def draw_example(task: DatesTask) -> Figure:
    """Where the decoder looks when it writes each character of an example."""
    calendar, model = task.calendar, task.model
    locale = next(iter(calendar.locales))
    text = calendar.write(EXAMPLE, locale, "full")
    place = next(model.parameters()).device
    source = torch.tensor([calendar.encode(text, locale)], device=place)
    (answer,) = task.convert([text], locale)
    target = torch.tensor([calendar.target.encode([START, *answer])], device=place)
    seq2seq: Any = model
    weights = seq2seq.weights(source, target)[0].cpu()
    figure, (axes,) = panels()
    draw_attention(axes, weights, [f"<{locale}>", *text], [*answer, "end"])
    axes.set(xlabel="source character", ylabel="character written", title=f"{text} to {answer}")
    return figure


__all__ = ["Dates", "DatesTask", "draw_example", "draw_matches"]
