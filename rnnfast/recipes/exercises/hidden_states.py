"""Exercise 5: the hidden states of a model that judges sentences."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._program import Result, setting
from ...lab import hidden_states as lab
from ...models import CELLS, SequenceClassifier, valid
from .. import data
from ..classification import ClassifierTask, Labelled, predict, scores
from ..recipe import Recipe
from ..training import Schedule
from ..vocabulary import Vocabulary
from .sentences import FILES, SENTIMENTS, Sentences

TITLES = {"pca": "States of a model of sentiment: PCA", "tsne": "States of a model of sentiment: t-SNE"}
AFTER = (1, 2, 4, 8, 16)  # words


@dataclass(frozen=True)
class HiddenStates(Recipe):
    """Trains a model of sentiment and draws its hidden states after each word, by PCA and t-SNE.

    The model reads sentences of the Stanford Sentiment Treebank from left to right and judges by its last state;
    so the state after any word can be read out, too: what it makes of the sentence so far.
    """

    section = "Exercise 5: Visualize Hidden States"
    examples = ("--cell rnn", "--sentences 300 --epochs 8")

    data: Path | None = setting(None, "folder that has sst/stsa.binary.train and so on", metavar="FOLDER")
    cell: str = setting("lstm", "of the layer", choices=CELLS)
    hidden_size: int = setting(64, "units", least=2)
    embedding_size: int = setting(64, "features of a word", least=1)
    epochs: int = setting(5, "times that each sentence is trained on", least=1)
    batch_size: int = setting(32, "sentences of a step", least=1)
    hide: float = setting(0.3, "share of words that are hidden in training", least=0, most=1)
    rate: float = setting(3e-3, "highest learning rate", least=0)
    sentences: int = setting(150, "held-out ones whose states are drawn", least=2)

    def run(self) -> Result:
        """Trains the model, evaluates it and takes its states."""
        found = data.find("sst", self.data, list(FILES.values()))
        train, dev, test = [Sentences.read(found, part) for part in FILES]
        vocabulary = train.vocabulary(least=2)
        task = self.train(train.labelled(vocabulary), dev.labelled(vocabulary), vocabulary)
        model: Any = task.model
        self.save_model("hidden-states", [model], vocabulary=vocabulary.tokens)
        held_out = test.labelled(vocabulary)
        judged = scores(held_out.classes, predict([model], held_out).argmax(1))
        by_words = {count: accuracy_after(model, held_out, count) for count in AFTER}
        some = held_out.rows(torch.arange(min(self.sentences, len(held_out))))
        states, labels, positions = take_states(model, *some)
        points = {method: lab.project(states, method, seed=self.seed) for method in lab.METHODS}
        lines = [f"accuracy on {len(held_out):,} held-out sentences: {judged['accuracy']:.1%}"]
        lines += ["by the state after so many words:  " + "  ".join(f"{n}: {a:.1%}" for n, a in by_words.items())]
        lines += ["", "probability that it is positive, after each word:"]
        lines += examples(model, test, vocabulary)
        numbers = {
            "settings": self.settings(),
            "edited": list(found.edited),
            **judged,
            "accuracy after words": by_words,
            "labels": labels.tolist(),
            "positions": positions.tolist(),
            "points": {method: xy.tolist() for method, xy in points.items()},
        }
        figures = {
            method: partial(lab.draw_states, xy, labels, positions, names=SENTIMENTS, title=TITLES[method])
            for method, xy in points.items()
        }
        return Result("\n".join(lines), numbers, figures)

    def train(self, train: Labelled, dev: Labelled, vocabulary: Vocabulary) -> ClassifierTask:
        """Trains the model."""
        torch.manual_seed(self.seed)
        model = SequenceClassifier(
            len(vocabulary),
            self.embedding_size,
            self.hidden_size,
            len(SENTIMENTS),
            cell=self.cell,
            layers=self.layers,
        )
        task = ClassifierTask(model, train, dev, batch_size=self.batch_size, seed=self.seed, hidden=self.hide)
        per_epoch = task.order.steps_per_epoch
        schedule = Schedule(
            self.epochs * per_epoch, self.rate, weight_decay=0.1, evaluate_every=max(1, per_epoch // 2)
        )
        self.trainer().train(task, schedule, "hidden-states")
        return task


@torch.no_grad()
def take_states(
    model: SequenceClassifier, tokens: Tensor, lengths: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """All states of some sentences, (N, H), with the sentences' sentiments and the words' positions, (N,)."""
    place = model.readout.weight.device
    states = model.states(tokens.to(place), lengths).cpu()
    present = valid(lengths, tokens.size(1))
    sentence, position = present.nonzero(as_tuple=True)
    return states[present], classes[sentence], position


@torch.no_grad()
def accuracy_after(model: SequenceClassifier, held_out: Labelled, words: int) -> float:
    """How many sentences are judged rightly by their first words alone."""
    cut = Labelled(held_out.tokens, held_out.lengths.clamp(max=words), held_out.classes)
    return float((predict([model], cut).argmax(1) == held_out.classes).float().mean())


@torch.no_grad()
def examples(model: SequenceClassifier, test: Sentences, vocabulary: Vocabulary, count: int = 4) -> list[str]:
    """Short sentences of both kinds, each word with what the model makes of the sentence so far."""
    place = model.readout.weight.device
    short = [i for i, words in enumerate(test.words) if 6 <= len(words) <= 10]
    chosen = [i for c in range(len(SENTIMENTS)) for i in [i for i in short if test.classes[i] == c][: count // 2]]
    lines = []
    for i in chosen:
        words = test.words[i]
        states = model.states(torch.tensor([vocabulary.encode(words)], device=place))[0]
        positive = model.readout(states).softmax(1)[:, 1].tolist()
        told = " ".join(f"{word} {p:.2f}" for word, p in zip(words, positive, strict=True))
        lines.append(f"  {SENTIMENTS[test.classes[i]]}: {told}")
    return lines


__all__ = ["HiddenStates", "accuracy_after", "take_states"]
