"""Entities in texts: people, places, organisations and other names."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..._program import Result, needs, setting
from ...lab.figures import panels, write_words
from ...lab.report import table
from ...models import Tagger
from .. import data
from ..order import Order
from ..training import generator
from ..vocabulary import Vocabulary
from . import entities
from .application import Application, ChoosingTask, Prediction
from .entities import Tagged
from .sentences import Spelt, SpeltEmbedding, hide

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "wikigold.conll.txt"
WORD = re.compile(r"\w+(?:[-'\u2019.&]\w+)*|[^\w\s]")
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])|\n+")
SHOWN, A_LINE = 20, 14  # sentences of a picture, words of its lines
WITHOUT, WITH = "without CRF", "with CRF"


class EntityModel(nn.Module):
    """A bidirectional tagger of words and their pieces (Lample et al., arXiv:1603.01360).

    Args:
        numbers: of words and pieces; tags: how many there are; crf: whether sequences are scored as a whole.
        embedding_size, hidden_size, cell, layers: as of :class:`rnnfast.models.Tagger`.
        dropout: of embedded words.

    Shapes:
        * words: (B, T, 1 + PIECES); lengths: (B,); tags: (B, T).
        * result: the mean of -log p of a tag, ().
    """

    def __init__(
        self,
        numbers: int,
        tags: int,
        *,
        embedding_size: int,
        hidden_size: int,
        cell: str,
        crf: bool,
        dropout: float,
        layers: str,
    ) -> None:
        super().__init__()
        embedding = nn.Sequential(SpeltEmbedding(numbers, embedding_size), nn.Dropout(dropout))
        self.tagger = Tagger(
            1, embedding_size, hidden_size, tags, cell=cell, crf=crf, embedding=embedding, layers=layers
        )

    def forward(self, words: Tensor, lengths: Tensor, tags: Tensor) -> Tensor:
        """The loss."""
        return self.tagger.loss(words, tags, lengths)


def network(settings: dict[str, Any], numbers: int, tags: int, crf: bool) -> EntityModel:
    """An untrained model."""
    names = ("embedding_size", "hidden_size", "cell", "dropout", "layers")
    return EntityModel(numbers, tags, crf=crf, **{name: settings[name] for name in names})


@dataclass(frozen=True)
class Coded:
    """Sentences as numbers: words (T, 1 + PIECES) and tags (T,) of each."""

    words: list[Tensor]
    tags: list[Tensor]

    @classmethod
    def of(cls, sentences: list[Tagged], spelt: Spelt, tags: list[str]) -> Coded:
        """Tags that are not known are O's."""
        numbers = defaultdict(lambda: tags.index("O"), {tag: i for i, tag in enumerate(tags)})
        return cls(
            [spelt.encode(s.words) for s in sentences],
            [torch.tensor([numbers[tag] for tag in s.tags]) for s in sentences],
        )

    def rows(self, indices: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Some sentences padded: words (B, T, 1 + PIECES), lengths (B,) and tags (B, T)."""
        words, tags = ([part[i] for i in indices] for part in (self.words, self.tags))
        lengths = torch.tensor([len(row) for row in tags])
        pad = nn.utils.rnn.pad_sequence
        return pad(words, batch_first=True), lengths, pad(tags, batch_first=True)


class NerTask(ChoosingTask):
    """Sentences of like lengths, some of their words hidden.

    Args:
        train, dev: to train on, and to choose the best weights by.
        names: of tags; hidden: share of words.
    """

    def __init__(
        self,
        model: EntityModel,
        train: Coded,
        dev: Coded,
        names: list[str],
        *,
        batch_size: int,
        seed: int,
        hidden: float,
    ) -> None:
        super().__init__(model)
        self.train_on, self.dev, self.names, self.seed, self.hidden = train, dev, names, seed, hidden
        lengths = torch.tensor([len(tags) for tags in train.tags])
        self.order = Order(len(lengths), batch_size, seed, lengths)

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Words, lengths and tags."""
        words, lengths, tags = self.train_on.rows(self.order[step].tolist())
        return hide(words, self.hidden, generator(self.seed, step)), lengths, tags

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, int]:
        """-log p of tags."""
        words, lengths, tags = batch
        count = int(lengths.sum())
        return model(words, lengths, tags) * count, count

    def evaluate(self) -> dict[str, float]:
        """F1 of entities on the sentences to choose by."""
        truth = [[self.names[i] for i in row.tolist()] for row in self.dev.tags]
        found = f1(truth, tagged(self.model, self.dev.words, self.names))["F1"]
        self.best.note(self.model, -found)
        return {"F1": found}


def tagged(model: Any, sentences: list[Tensor], names: list[str]) -> list[list[str]]:
    """The tags that a model gives to sentences, each words (T, 1 + PIECES)."""
    place, found = next(model.parameters()).device, []
    for begin in range(0, len(sentences), 64):
        some = sentences[begin : begin + 64]
        words = nn.utils.rnn.pad_sequence(some, batch_first=True).to(place)
        found += model.tagger.decode(words, torch.tensor([len(s) for s in some]))
    return [entities.begun([names[i] for i in row]) for row in found]


def f1(truth: list[list[str]], found: list[list[str]]) -> dict[str, Any]:
    """Precision, recall and F1 of whole entities, and the F1 of each kind, as CoNLL's shared tasks count them."""
    metrics: Any = needs("sklearn.metrics", "recipes")
    each = [
        {(row, *place) for row, tags in enumerate(sentences) for place in entities.places(tags)}
        for sentences in (truth, found)
    ]
    either = sorted(set.union(*each))
    kinds = sorted({kind for *_, kind in either})

    def scores(places: list[Any]) -> list[float]:
        # One more, in neither, counts for nothing, but scikit-learn takes no empty lists.
        present = [[False, *(place in those for place in places)] for those in each]
        score = metrics.precision_recall_fscore_support
        return list(map(float, score(*present, average="binary", zero_division=0)[:3]))

    precision, recall, both = scores(either)
    of_kinds = {kind: scores([place for place in either if place[-1] == kind])[2] for kind in kinds}
    return {"F1": both, "precision": precision, "recall": recall, "kinds": of_kinds}


def by_heart(train: list[Tagged], sentences: list[Tagged]) -> list[list[str]]:
    """Tags by a list of words alone: each word's most frequent tag in training, O for those never seen."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for sentence in train:
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            counts[word][tag.replace("B-", "I-")] += 1
    most = {word: count.most_common(1)[0][0] for word, count in counts.items()}
    return [entities.begun([most.get(word, "O") for word in s.words]) for s in sentences]


def spans(words: list[str], tags: list[str]) -> list[tuple[str, str]]:
    """Entities of a sentence and their kinds."""
    return [(" ".join(words[begin:end]), kind) for begin, end, kind in entities.places(tags)]


@dataclass(frozen=True)
class PredictNer(Prediction):
    """Finds the entities of a text."""

    application = "ner"
    expects = "a text"
    examples = ('"Ada Lovelace met Charles Babbage in London."', "article.txt --json")

    crf: bool = setting(True, "whether the model with a CRF answers")

    def load(self, content: dict[str, Any]) -> list[nn.Module]:
        """The models without and with CRF."""
        numbers = len(Spelt(Vocabulary(content["vocabulary"]["words"])))
        tags = len(content["vocabulary"]["tags"])
        return [
            self.ready(network(content["settings"], numbers, tags, crf), weights)
            for crf, weights in zip((False, True), content["weights"], strict=True)
        ]

    def answer(self, content: dict[str, Any], models: list[Any]) -> Result:
        """The entities of each sentence."""
        names, spelt = content["vocabulary"]["tags"], Spelt(Vocabulary(content["vocabulary"]["words"]))
        sentences = [words for part in SENTENCE.split(self.text()) if (words := WORD.findall(part))]
        tags = tagged(models[self.crf], [spelt.encode(words) for words in sentences], names)
        found = [spans(words, row) for words, row in zip(sentences, tags, strict=True)]
        lines = [f"{kind:6}{entity}" for row in found for entity, kind in row] or ["no entities"]
        numbers = [
            {"words": words, "tags": row, "entities": [{"text": e, "kind": k} for e, k in each]}
            for words, row, each in zip(sentences, tags, found, strict=True)
        ]
        shown = list(zip(sentences, tags, strict=True))[:SHOWN]
        figures = {"entities": partial(draw_entities, shown, names)} if shown else {}
        return Result("\n".join(lines), {"sentences": numbers}, figures)


@dataclass(frozen=True)
class Ner(Application):
    """Learns to find people, places, organisations and other names in Wikipedia, with and without CRF.

    Documents, not sentences, are split, since a name comes back within its document.
    """

    prediction = PredictNer
    examples = ("--cell gru", "--epochs 40 --seed 1", "--layers torch")

    hidden_size: int = setting(100, "units of each direction", least=1)
    embedding_size: int = setting(64, "features of a word", least=1)
    epochs: int = setting(20, "times that each sentence is trained on", least=1)
    batch_size: int = setting(16, "sentences of a step", least=1)
    dropout: float = setting(0.6, "share of a word's features dropped in training", least=0, most=1)
    hide: float = setting(0.2, "share of words hidden in training", least=0, most=1)
    rate: float = setting(4e-3, "highest learning rate", least=0)

    def fit(self) -> Any:
        """The tasks without and with CRF, and what they were trained on."""
        found = data.find("wikigold", self.data)
        parts = entities.split(entities.read(found.files[FILE]), self.seed)
        counts = Counter(word for s in parts[0] for word in s.words)
        spelt = Spelt(Vocabulary(word for word, n in counts.most_common() if n > 1))
        names = sorted({tag for s in parts[0] for tag in s.tags} | {"O"})
        train, dev = (Coded.of(part, spelt, names) for part in parts[:2])
        tasks, curves = {}, {}
        for name, crf in ((WITHOUT, False), (WITH, True)):
            torch.manual_seed(self.seed)
            model = network(self.settings(), len(spelt), len(names), crf)
            task = NerTask(model, train, dev, names, batch_size=self.batch_size, seed=self.seed, hidden=self.hide)
            curves[name] = self.train_and_choose(
                task, name.replace(" ", "-"), epochs=self.epochs, rate=self.rate, models=2
            )
            tasks[name] = task
        return tasks, curves, parts, spelt

    def report(self, trained: Any) -> Result:
        """Saves the models and judges them on the held-out documents."""
        tasks, curves, (train, _, test), spelt = trained
        names, truth = tasks[WITH].names, [s.tags for s in test]
        vocabulary = {"words": spelt.vocabulary.tokens, "tags": names}
        self.save_model("ner", [task.model for task in tasks.values()], vocabulary=vocabulary)
        words = [spelt.encode(s.words) for s in test]
        answers = {name: tagged(task.model, words, names) for name, task in tasks.items()}
        judged = {"words by heart": f1(truth, by_heart(train, test))}
        judged |= {name: f1(truth, found) for name, found in answers.items()}
        rows = [[k, *(f"{row[m]:.1%}" for m in ("F1", "precision", "recall"))] for k, row in judged.items()]
        lines = [f"entities of {len(test)} held-out sentences:", ""]
        lines += [table(["", "F1", "precision", "recall"], rows), ""]
        lines += examples(test, answers[WITH])
        numbers = {
            "settings": self.settings(),
            "judged": judged,
            "curves": {name: curve.metrics for name, curve in curves.items()},
            "seconds": {name: curve.seconds for name, curve in curves.items()},
        }
        return Result("\n".join(lines), numbers, {"ner": partial(draw, judged, tasks[WITH].model, names)})


def examples(test: list[Tagged], found: list[list[str]], count: int = 4) -> list[str]:
    """Some held-out sentences with entities: those that are there, and those found."""
    lines: list[str] = []
    for sentence, tags in zip(test, found, strict=True):
        there = spans(sentence.words, sentence.tags)
        if 2 <= len(there) <= 4 and len(sentence.words) < 25 and len(lines) < 3 * count:
            lines.append(" ".join(sentence.words))
            for about, row in (("there", there), ("found", spans(sentence.words, tags))):
                lines.append(f"  {about}: " + ("; ".join(f"{e} {k}" for e, k in row) or "none"))
    return lines


def draw_entities(sentences: list[tuple[list[str], list[str]]], names: list[str]) -> Figure:
    """Sentences and their tags: entities on grounds that tell their kinds."""
    kinds = sorted({name[2:] for name in names if name != "O"})
    colors = {kind: f"C{i}" for i, kind in enumerate(kinds)}
    pairs = [list(zip(words, tags, strict=True)) for words, tags in sentences]
    lines = [row[i : i + A_LINE] for row in pairs for i in range(0, len(row), A_LINE)]
    figure, (axes,) = panels(height=1.6 + 0.32 * len(lines))
    write_words(axes, [[(word, colors.get(tag[2:])) for word, tag in line] for line in lines])
    for kind, color in colors.items():
        axes.plot([], [], "s", color=color, label=kind)
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=len(kinds))
    axes.set(xlabel="words", ylabel="sentences", title="Entities found")
    return figure


def draw(judged: dict[str, Any], model: EntityModel, names: list[str]) -> Figure:
    """F1 of each kind of entity, and what the CRF has learnt of which tag follows which."""
    figure, (bars, matrix) = panels(1, 2)
    kinds = sorted({kind for row in judged.values() for kind in row["kinds"]})
    for number, (name, row) in enumerate(judged.items()):
        values = [row["F1"], *(row["kinds"].get(kind, 0.0) for kind in kinds)]
        bars.bar([x + 0.27 * (number - 1) for x in range(len(values))], values, width=0.25, label=name)
    bars.set_xticks(range(1 + len(kinds)), ["all", *kinds])
    bars.set(xlabel="kind of entity", ylabel="F1", ylim=(0, 1), title="Held-out documents")
    bars.legend(fontsize="small")
    matrix.grid(False)
    weights = model.tagger.crf.transitions.detach().cpu()
    most = float(weights.abs().max())
    image = matrix.imshow(weights.numpy(), cmap="RdBu", vmin=-most, vmax=most)
    matrix.set_xticks(range(len(names)), names, rotation=90)
    matrix.set_yticks(range(len(names)), names)
    matrix.set(xlabel="following tag", ylabel="tag", title="Transitions of the CRF")
    figure.colorbar(image, shrink=0.8)
    return figure


__all__ = ["EntityModel", "Ner", "NerTask", "PredictNer", "by_heart", "f1", "spans", "tagged"]
