"""Exercise 3: of what language a surname is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..._program import Result, setting
from ...lab.figures import panels
from ...lab.report import table
from ...models import CELLS
from .. import data
from ..classification import predict, scores
from ..recipe import Recipe
from ..training import Schedule
from ..vocabulary import Vocabulary
from .name_lists import Names, ceiling, labelled, majority, ngrams
from .name_model import NameModel, NameTask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# How much more a class counts the rarer it is: 0 not at all, 1 so that all count the same.
BALANCE = 0.15


@dataclass(frozen=True)
class NameClassification(Recipe):
    """Learns to tell of which of 18 languages a surname is, beside a regression on n-grams.

    Names are split so that no held-out name is trained on. Some occur in several languages: they stay in all of
    them, and the ceiling says how many can be right at best.
    """

    section = "Exercise 3: Name Classification"
    examples = ("--data ~/data", "--seed 1 --models 1", "--cell lstm --hidden-size 128")

    data: Path | None = setting(None, "folder that has names/Arabic.txt and so on", metavar="FOLDER")
    cell: str = setting("gru", "of the layer", choices=CELLS)
    models: int = setting(3, "whose probabilities are averaged", least=1)
    hidden_size: int = setting(128, "units of each direction", least=1)
    embedding_size: int = setting(64, "features of a character", least=1)
    epochs: int = setting(16, "times that each name is trained on", least=1)
    batch_size: int = setting(128, "names of a step", least=1)
    dropout: float = setting(0.4, "share of features that are dropped in training", least=0, most=1)
    rate: float = setting(3e-3, "highest learning rate", least=0)

    def run(self) -> Result:
        """Trains the models, and compares them with what else there is."""
        found = data.find("names", self.data)
        names = Names.read(found, self.seed)
        vocabulary = names.vocabulary()
        held_out = labelled(names.held_out, vocabulary)
        models = [self.train(names, vocabulary, n) for n in range(self.models)]
        self.save_model(
            "names", models, vocabulary={"characters": vocabulary.tokens, "languages": names.languages}
        )
        probabilities = predict(models, held_out)
        answers = probabilities.argmax(1)
        several = f"mean of {self.models} of these" if self.models > 1 else ""
        rows = {
            "majority class": majority(names),
            "n-grams, logistic regression": ngrams(names, balanced=False),
            "n-grams, classes balanced": ngrams(names, balanced=True),
            f"bidirectional {self.cell}": predict(models[:1], held_out).argmax(1),
            **({several: answers} if several else {}),
        }
        compared = {name: scores(held_out.classes, row) for name, row in rows.items()}
        best = ceiling(names.held_out)
        count = f"{len({name for name, _ in names.held_out}):,} held-out names, {len(held_out):,} rows"
        shown = [[name, f"{row['accuracy']:.1%}", f"{row['macro-F1']:.3f}"] for name, row in compared.items()]
        shown.append(["at best: names of several languages", f"{best:.1%}", ""])
        lines = [f"{count}, {len(names.languages)} languages:", "", table(["", "accuracy", "macro-F1"], shown)]
        lines += ["", *examples(names, probabilities)]
        confusion = counts(held_out.classes, answers, len(names.languages))
        numbers = {
            "settings": self.settings(),
            "edited": list(found.edited),
            "compared": compared,
            "ceiling": best,
            "languages": names.languages,
            "confusion": confusion.tolist(),
        }
        figures = {"confusion": lambda: draw(names.languages, confusion)}
        return Result("\n".join(lines), numbers, figures)

    def train(self, names: Names, vocabulary: Vocabulary, number: int) -> nn.Module:
        """One of the models."""
        seed = self.seed + 1000 * number
        torch.manual_seed(seed)
        model = NameModel(
            len(vocabulary),
            len(names.languages),
            embedding_size=self.embedding_size,
            hidden_size=self.hidden_size,
            cell=self.cell,
            dropout=self.dropout,
            layers=self.layers,
        )
        train, held_out = labelled(names.train, vocabulary), labelled(names.held_out, vocabulary)
        task = NameTask(
            model, train, held_out, batch_size=self.batch_size, seed=seed, weights=weights(names.classes())
        )
        per_epoch = task.order.steps_per_epoch
        schedule = Schedule(self.epochs * per_epoch, self.rate, warm_up=0.15, evaluate_every=2 * per_epoch)
        self.trainer(seed).train(task, schedule, f"names-{number + 1}")
        return task.model


def weights(classes: Tensor) -> Tensor:
    """Of each class in the loss: the rarer the more; 1 for the mean row."""
    share = classes.bincount().float() / len(classes)
    rarer = share.clamp(min=1e-6) ** -BALANCE
    return rarer / (rarer * share).sum()


def counts(truth: Tensor, answers: Tensor, classes: int) -> Tensor:
    """How many rows of each class, down, were taken for each, across."""
    return (truth * classes + answers).bincount(minlength=classes**2).view(classes, classes)


def examples(names: Names, probabilities: Tensor, count: int = 12) -> list[str]:
    """Some held-out names with the two languages that are most probable."""
    lines, languages = [f"{'name':20}{'is':14}{'is taken for':28}"], names.languages
    for row in torch.linspace(0, len(names.held_out) - 1, count).long().tolist():
        name, language = names.held_out[row]
        likely = [
            f"{languages[i]} {p:.0%}"
            for p, i in zip(*(t.tolist() for t in probabilities[row].topk(2)), strict=True)
        ]
        lines.append(f"{name:20}{languages[language]:14}{', '.join(likely)}")
    return lines


def draw(languages: list[str], confusion: Tensor) -> Figure:
    """The confusion matrix, each row as shares of its language."""
    shares = 100 * confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    figure, (axes,) = panels(height=7.2)
    axes.grid(False)
    image = axes.imshow(shares.numpy(), vmin=0, vmax=100, cmap="Blues")
    for row, column in (shares >= 5).nonzero().tolist():
        share = float(shares[row, column])
        axes.text(
            column, row, f"{share:.0f}", ha="center", va="center", size=8, color="white" if share > 55 else "black"
        )
    rows = [f"{language} ({n})" for language, n in zip(languages, confusion.sum(1).tolist(), strict=True)]
    axes.set_xticks(range(len(languages)), languages, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(languages)), rows)
    axes.set(xlabel="taken for", ylabel="language (rows held out)", title="Surnames that were not trained on")
    figure.colorbar(image, label="% of the language's rows", shrink=0.8)
    return figure


__all__ = ["NameClassification", "counts", "draw", "weights"]
