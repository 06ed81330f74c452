"""Sentences of one language in another."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..._program import Result, needs, setting
from ...lab.figures import draw_attention, panels
from ...lab.report import table
from ...models import CELLS, Seq2Seq
from ...models.attention import ATTENTIONS
from .. import data
from ..order import Order
from ..training import generator
from ..vocabulary import PADDING, UNKNOWN, padded
from . import pairs
from .application import Application, ChoosingTask, Prediction
from .pairs import END, START, Pieces, Translated
from .references import streams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WITHOUT, WITH = "without attention", "with attention"
MEMORY = "translation memory"
AT_ONCE = 128  # sentences that are translated together
BEAM, PENALTY = 5, 1.0  # of beam search: its width, and that of length
LENGTHS = (4, 6, 8, 10)  # words of a source, where the picture's groups end


def network(settings: dict[str, Any], sides: tuple[Pieces, Pieces], attention: bool) -> Seq2Seq:
    """An untrained model."""
    names = ("cell", "num_layers", "dropout", "layers")
    return Seq2Seq(
        len(sides[0]),
        len(sides[1]),
        settings["embedding_size"],
        settings["hidden_size"],
        bidirectional=True,
        attention=settings["attention"] if attention else None,
        **{name: settings[name] for name in names},
    )


class TranslateTask(ChoosingTask):
    """Sentences of like lengths; an epoch has each once, with one of its translations.

    Args:
        train, dev: to train on, and to choose the best weights by.
        sides: pieces of the sources and of the targets.
        smoothing: of the true piece's probability, to all pieces alike.
        hidden: share of pieces given to the model that are replaced by one that is not known.
    """

    def __init__(
        self,
        model: Seq2Seq,
        train: Translated,
        dev: Translated,
        sides: tuple[Pieces, Pieces],
        *,
        batch_size: int,
        seed: int,
        smoothing: float,
        hidden: float,
    ) -> None:
        super().__init__(model)
        self.sides, self.seed, self.smoothing, self.hidden = sides, seed, smoothing, hidden
        self.dev = list(first_translations(dev, sides))
        self.sources = pairs.many(sides[0], train.sources)
        self.targets = [pairs.many(sides[1], targets) for targets in train.targets]
        lengths = torch.tensor([len(source) for source in self.sources])
        self.order = Order(len(lengths), batch_size, seed, lengths)

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Sources, their lengths, targets with start and end, and these as they are given to the model."""
        rows, random = self.order[step].tolist(), generator(self.seed, step)
        draw = torch.rand(len(rows), generator=random).tolist()
        targets = [self.targets[row][int(r * len(self.targets[row]))] for row, r in zip(rows, draw, strict=True)]
        source, lengths, target = pairs.batch([self.sources[row] for row in rows], targets)
        return self._hide(source, random), lengths, target, self._hide(target, random)

    def _hide(self, tokens: Tensor, random: torch.Generator) -> Tensor:
        """Word dropout (Iyyer et al., "Deep unordered composition", ACL 2015); start and padding stay."""
        chosen = torch.rand(tokens.shape, generator=random) < self.hidden
        return tokens.masked_fill(chosen & (tokens != PADDING) & (tokens != START), UNKNOWN)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, int]:
        """Cross-entropy of the targets' pieces, smoothed (Szegedy et al., arXiv:1512.00567)."""
        source, lengths, target, given = batch
        return self._nats(model(source, given[:, :-1], lengths), target, self.smoothing)

    def evaluate(self) -> dict[str, float]:
        """-log p of a piece of the first translations to choose by."""
        total, count = 0.0, 0
        place = next(self.model.parameters()).device
        for source, lengths, target in self.dev:
            target = target.to(place)
            nats, pieces = self._nats(self.model(source.to(place), target[:, :-1], lengths), target, 0.0)
            total, count = total + float(nats), count + pieces
        self.best.note(self.model, total / count)
        return {"held out": total / count}

    def _nats(self, logits: Tensor, target: Tensor, smoothing: float) -> tuple[Tensor, int]:
        wanted = target[:, 1:]
        nats = F.cross_entropy(
            logits.flatten(0, 1).float(),
            wanted.flatten(),
            ignore_index=PADDING,
            reduction="sum",
            label_smoothing=smoothing,
        )
        return nats, int((wanted != PADDING).sum())


def first_translations(found: Translated, sides: tuple[Pieces, Pieces]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of all sentences and the first translation of each; see :func:`~.pairs.batch`."""
    sources = pairs.many(sides[0], found.sources)
    targets = pairs.many(sides[1], [targets[0] for targets in found.targets])
    for begin in range(0, len(sources), AT_ONCE):
        some = slice(begin, begin + AT_ONCE)
        yield pairs.batch(sources[some], targets[some])


def translated(model: Any, sides: tuple[Pieces, Pieces], sentences: list[str], beam: int) -> list[list[int]]:
    """The pieces of each sentence's translation."""
    sources = pairs.many(sides[0], sentences)
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    place, found = next(model.parameters()).device, dict[int, list[int]]()
    for begin in range(0, len(order), AT_ONCE):
        some = order[begin : begin + AT_ONCE]
        source, lengths = padded([sources[i] for i in some])
        longest = 2 * source.size(1) + 10
        written = model.decode(
            source.to(place), lengths, start=START, end=END, max_length=longest, beam=beam, length_penalty=PENALTY
        )
        found.update(zip(some, written, strict=True))
    return [found[i] for i in range(len(sources))]


def attended(model: Any, source: list[int], target: list[int]) -> Tensor:
    """Where a model with attention looks when it writes each piece of a target and its end: (T + 1, S)."""
    place = next(model.parameters()).device
    rows = [torch.tensor([row], device=place) for row in (source, [START, *target])]
    return model.weights(*rows)[0].cpu()


def bleu(answers: list[str], references: list[list[str]]) -> dict[str, float]:
    """BLEU and chrF of translations, given all that would have been right of each, by sacrebleu.

    (Papineni et al., "BLEU", ACL 2002; Popovic, "chrF", WMT 2015; Post, "A call for clarity", WMT 2018.)
    """
    metrics: Any = needs("sacrebleu.metrics", "recipes")
    kinds = {"BLEU": metrics.BLEU(), "chrF": metrics.CHRF()}
    return {name: metric.corpus_score(answers, streams(references)).score for name, metric in kinds.items()}


def from_memory(train: Translated, sources: list[str]) -> list[str]:
    """The translation that the most similar sentence of the training data has, by TF-IDF weights of words."""
    text: Any = needs("sklearn.feature_extraction.text", "recipes")
    tfidf = text.TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2), sublinear_tf=True)
    known = tfidf.fit_transform(train.sources)
    nearest = (tfidf.transform(sources) @ known.T).tocsr()
    return [train.targets[int(row.argmax())][0] for row in nearest]


@dataclass(frozen=True)
class PredictTranslate(Prediction):
    """Translates sentences."""

    application = "translate"
    expects = "sentences, one a line"
    examples = ('"Where is the station?"', "letter.txt --beam 8 --output letter")

    beam: int = setting(BEAM, "how many beginnings of a translation are followed", least=1)
    attention: bool = setting(True, "whether the model with attention answers")

    def load(self, content: dict[str, Any]) -> list[nn.Module]:
        """The models without and with attention."""
        sides = self.sides(content)
        return [
            self.ready(network(content["settings"], sides, attention), weights)
            for attention, weights in zip((False, True), content["weights"], strict=True)
        ]

    def answer(self, content: dict[str, Any], models: list[Any]) -> Result:
        """A translation of each line."""
        sides, model = self.sides(content), models[self.attention]
        lines = [line for line in map(pairs.tidy, self.text().splitlines()) if line]
        written = translated(model, sides, lines, self.beam)
        answers = [sides[1].decode(numbers) for numbers in written]
        numbers = [{"source": line, "translation": answer} for line, answer in zip(lines, answers, strict=True)]
        figures = {}
        if self.attention:
            shown = list(zip(lines, written, strict=True))[:4]
            figures["attention"] = partial(draw_looks, model, sides, shown)
        return Result("\n".join(answers), {"sentences": numbers}, figures)

    @staticmethod
    def sides(content: dict[str, Any]) -> tuple[Pieces, Pieces]:
        """Pieces of sources and targets."""
        source, target = (Pieces.parse(text) for text in content["vocabulary"])
        return source, target


@dataclass(frozen=True)
class Translate(Application):
    """Learns to translate English to French, or what your file has, with and without attention.

    Sentences are those of Tatoeba, split by the English one; a held-out sentence's translations are all right.
    """

    prediction = PredictTranslate
    examples = ("--reverse", "--text mine.tsv --pieces 1000", "--cell lstm --attention bahdanau")

    cell: str = setting("gru", "of encoder and decoder", choices=CELLS)
    attention: str = setting("scaled_luong", "of the model that has one", choices=ATTENTIONS)
    text: Path | None = setting(
        None, "text of your own: on each line a sentence, a tab and its translation", metavar="FILE"
    )
    reverse: bool = setting(False, "translate the second of each pair to the first")
    pieces: int = setting(2000, "that words are made of, of each language", least=300)
    hidden_size: int = setting(256, "units, of the encoder's every direction and the decoder", least=1)
    embedding_size: int = setting(128, "features of a piece", least=1)
    num_layers: int = setting(1, "recurrences stacked on one another, of both", least=1)
    epochs: int = setting(6, "times that each sentence is trained on", least=1)
    batch_size: int = setting(128, "sentences of a step", least=1)
    dropout: float = setting(0.2, "share of features dropped between layers", least=0, most=1)
    hide: float = setting(0.1, "share of pieces hidden in training", least=0, most=1)
    smoothing: float = setting(0.1, "probability given to all pieces alike in training", least=0, most=1)
    rate: float = setting(3e-3, "highest learning rate", least=0)

    def fit(self) -> Any:
        """The tasks without and with attention, and what they were trained on."""
        parts = pairs.split(self.read(), self.seed)
        train, dev, _ = parts
        targets = (target for some in train.targets for target in some)
        sides = Pieces.learnt(train.sources, self.pieces), Pieces.learnt(targets, self.pieces)
        tasks, curves = {}, {}
        for name, attention in ((WITHOUT, False), (WITH, True)):
            torch.manual_seed(self.seed)
            model = network(self.settings(), sides, attention)
            task = TranslateTask(
                model,
                train,
                dev,
                sides,
                batch_size=self.batch_size,
                seed=self.seed,
                smoothing=self.smoothing,
                hidden=self.hide,
            )
            curves[name] = self.train_and_choose(
                task, name.replace(" ", "-"), epochs=self.epochs, rate=self.rate, models=2
            )
            tasks[name] = task
        return tasks, curves, parts, sides

    def read(self) -> list[pairs.Pair]:
        """Sources and targets."""
        if self.text is not None:
            found = pairs.read(self.text)
        else:
            found = pairs.published(data.find("eng_fra", self.data).files[pairs.ZIP])
        return [(target, source) for source, target in found] if self.reverse else found

    def report(self, trained: Any) -> Result:
        """Saves the models and judges them on the held-out sentences."""
        tasks, curves, (train, _, test), sides = trained
        vocabulary = [side.text() for side in sides]
        self.save_model("translate", [task.model for task in tasks.values()], vocabulary=vocabulary)
        written = {name: translated(task.model, sides, test.sources, BEAM) for name, task in tasks.items()}
        answers = {MEMORY: from_memory(train, test.sources)}
        answers |= {name: [sides[1].decode(row) for row in rows] for name, rows in written.items()}
        judged = {name: bleu(found, test.targets) for name, found in answers.items()}
        rows = [[name, *(f"{value:.1f}" for value in found.values())] for name, found in judged.items()]
        lines = [f"{len(test.sources):,} held-out sentences:", "", table(["", "BLEU", "chrF"], rows), ""]
        shown = [i for i, source in enumerate(test.sources) if 6 <= len(source.split()) <= 10][:4]
        for i in shown:
            lines += [test.sources[i], f"  right: {' / '.join(test.targets[i])}"]
            lines += [f"  {name}: {answers[name][i]}" for name in (WITHOUT, WITH)]
        numbers = {
            "settings": self.settings(),
            "judged": judged,
            "sentences": [len(part.sources) for part in trained[2]],
            "curves": {name: curve.metrics for name, curve in curves.items()},
            "seconds": {name: curve.seconds for name, curve in curves.items()},
        }
        looks = [(test.sources[i], written[WITH][i]) for i in shown]
        figures: dict[str, Callable[[], Figure]] = {"lengths": partial(draw_lengths, test, answers)}
        if looks:
            figures["attention"] = partial(draw_looks, tasks[WITH].model, sides, looks)
        return Result("\n".join(lines), numbers, figures)


def draw_looks(model: Any, sides: tuple[Pieces, Pieces], shown: list[tuple[str, list[int]]]) -> Figure:
    """Where the decoder looks when it writes each piece of translations, given the source and those pieces."""
    rows = (len(shown) + 1) // 2
    figure, axes = panels(rows, min(2, len(shown)), height=4.5 * rows)
    for each in axes[len(shown) :]:
        each.remove()
    for each, (source, written) in zip(axes, shown, strict=False):
        numbers = sides[0].encode(source)
        weights = attended(model, numbers, written)
        draw_attention(each, weights, sides[0].shown(numbers), [*sides[1].shown(written), "end"])
        each.set(xlabel="source", ylabel="translation")
    figure.suptitle("Where the decoder looks")
    return figure


def draw_lengths(test: Translated, answers: dict[str, list[str]]) -> Figure:
    """BLEU of short and of long sentences."""
    figure, (axes,) = panels()
    words = torch.tensor([len(source.split()) for source in test.sources])
    groups = torch.bucketize(words, torch.tensor(LENGTHS))
    names = [f"to {LENGTHS[0]}", *(f"{a + 1} to {b}" for a, b in itertools.pairwise(LENGTHS))]
    names.append(f"above {LENGTHS[-1]}")
    present = [g for g in range(len(names)) if bool((groups == g).any())]
    for number, (name, found) in enumerate(answers.items()):
        values = []
        for group in present:
            rows = (groups == group).nonzero().flatten().tolist()
            values.append(bleu([found[i] for i in rows], [test.targets[i] for i in rows])["BLEU"])
        axes.bar([x + 0.27 * (number - 1) for x in range(len(values))], values, width=0.25, label=name)
    axes.set_xticks(range(len(present)), [names[g] for g in present])
    axes.set(xlabel="words of the source", ylabel="BLEU", title="Held-out sentences")
    axes.legend(fontsize="small")
    return figure


__all__ = ["PredictTranslate", "Translate", "TranslateTask", "bleu", "from_memory", "translated"]
