"""Sentiment of sentences: positive or negative."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..._program import Result, needs, setting
from ...lab.figures import panels, write_words
from ...lab.report import table
from ...models import CELLS, recurrent_layer, run, valid
from .. import data
from ..classification import scores
from ..exercises.name_model import Ngrams
from ..exercises.sentences import FILES, GRADED, GRADES, SENTIMENTS, Sentences
from ..order import Order
from ..training import Schedule, Task, generator
from ..vocabulary import PADDING, UNKNOWN, Vocabulary
from .application import Application, Prediction
from .sentences import Spelt, SpeltEmbedding, hide

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# As the treebank has words: lower case, "do n't", "it 's".
WORD = re.compile(r"\w+(?=n't)|n't|'\w+|\w+(?:[-.&]\w+)*|[^\w\s]")
NGRAMS = 2**17
REGRESSION = "TF-IDF, logistic regression"
PUBLISHED = 0.849  # Tai, Socher and Manning, arXiv:1503.00075: an LSTM, with GloVe's vectors, trained on phrases


class SentimentModel(nn.Module):
    r"""Reads a sentence in both directions and grades it.

    .. math::
        y = W [\max_t h_t; \operatorname{mean}_t h_t] + b + y_{n-grams}

    with h the states of both directions over embedded words and their pieces, and a linear part
    (:class:`~rnnfast.recipes.exercises.name_model.Ngrams`, here of words).

    Args:
        numbers: of words and pieces; embedding_size, hidden_size: features of a word, units of each direction.
        cell, layers: as in :func:`rnnfast.models.recurrent_layer`.
        dropout: of embedded words, and of what is read out.

    Shapes:
        * words: (B, T, 1 + PIECES); lengths: (B,).
        * result: logits (B, 5) of the grades.
    """

    def __init__(
        self, numbers: int, *, embedding_size: int, hidden_size: int, cell: str, dropout: float, layers: str
    ) -> None:
        super().__init__()
        self.embedding, self.dropout = SpeltEmbedding(numbers, embedding_size), nn.Dropout(dropout)
        self.rnn = recurrent_layer(cell, embedding_size, hidden_size, bidirectional=True, layers=layers)
        self.readout = nn.Linear(4 * hidden_size, GRADES)
        self.ngrams = Ngrams(GRADES, NGRAMS)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """Logits."""
        states, _ = run(self.rnn, self.dropout(self.embedding(words)), None, lengths)
        lengths = lengths.to(states.device)
        present = valid(lengths, words.size(1))
        most = states.masked_fill(~present.unsqueeze(2), -torch.inf).amax(1)
        mean = states.sum(1) / lengths.unsqueeze(1)
        return self.readout(self.dropout(torch.cat([most, mean], 1))) + self.ngrams(words[..., 0], present)


def network(settings: dict[str, Any], numbers: int) -> SentimentModel:
    """An untrained model."""
    names = ("embedding_size", "hidden_size", "cell", "dropout", "layers")
    return SentimentModel(numbers, **{name: settings[name] for name in names})


@dataclass(frozen=True)
class Coded:
    """Sentences as numbers: words (N, T, 1 + PIECES), lengths (N,) and classes (N,)."""

    words: Tensor
    lengths: Tensor
    classes: Tensor

    @classmethod
    def of(cls, sentences: Sentences, spelt: Spelt) -> Coded:
        rows = [spelt.encode(words) for words in sentences.words]
        lengths = torch.tensor([len(row) for row in rows])
        return cls(nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths, torch.tensor(sentences.classes))

    def rows(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Some of them, no longer than they need be."""
        lengths = self.lengths[indices]
        return self.words[indices, : int(lengths.max())], lengths, self.classes[indices]


class SentimentTask(Task):
    """Graded sentences, some of their words hidden.

    Args:
        train: with grades; dev: positive or negative, to look at meanwhile.
    """

    def __init__(
        self, model: SentimentModel, train: Coded, dev: Coded, *, batch_size: int, seed: int, hidden: float
    ) -> None:
        super().__init__(model)
        self.train_on, self.dev, self.seed, self.hidden = train, dev, seed, hidden
        self.order = Order(len(train.classes), batch_size, seed, train.lengths)

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Words, lengths and grades."""
        words, lengths, classes = self.train_on.rows(self.order[step])
        return hide(words, self.hidden, generator(self.seed, step)), lengths, classes

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, int]:
        """Cross-entropy of the grades."""
        words, lengths, classes = batch
        return F.cross_entropy(model(words, lengths), classes, reduction="sum"), len(classes)

    def evaluate(self) -> dict[str, float]:
        """Accuracy on the sentences to look at."""
        found = (positive([self.model], self.dev) > 0.5).long()
        return {"accuracy": float((found == self.dev.classes).float().mean())}


@torch.no_grad()
def positive(models: list[Any], found: Coded) -> Tensor:
    """The probability that each sentence is positive rather than negative, the mean of all models': (N,)."""
    place, rows = next(models[0].parameters()).device, []
    for some in torch.arange(len(found.classes)).split(256):
        words, lengths, _ = found.rows(some)
        grades = sum(model(words.to(place), lengths).softmax(1) for model in models).cpu() / len(models)
        low, high = grades[:, : GRADES // 2].sum(1), grades[:, GRADES // 2 + 1 :].sum(1)
        rows.append(high / (low + high))
    return torch.cat(rows)


def weight_of_words(models: list[Any], words: list[str], spelt: Spelt) -> tuple[float, list[float]]:
    """The probability that a sentence is positive, and by how much each word raises its log-odds: what hiding the
    word takes away."""
    row = spelt.encode(words)
    rows = row.repeat(len(words) + 1, 1, 1)
    for i in range(len(words)):
        rows[i + 1, i] = PADDING
        rows[i + 1, i, 0] = UNKNOWN
    p = positive(models, Coded(rows, torch.full((len(rows),), len(words)), torch.zeros(len(rows))))
    odds = p.double().logit(eps=1e-6)
    return float(p[0]), (odds[0] - odds[1:]).tolist()


def regression(train: Sentences, dev: Sentences, test: Sentences) -> tuple[Tensor, dict[str, Any]]:
    """Answers of a logistic regression on TF-IDF weights of words and pairs, with what is best on `dev`.

    Args:
        train: with two classes or with grades; dev, test: with two classes.
    """
    text: Any = needs("sklearn.feature_extraction.text", "recipes")
    linear: Any = needs("sklearn.linear_model", "recipes")
    best: tuple[float, Any, Any, dict[str, Any]] | None = None
    for longest in (1, 2):
        tfidf = text.TfidfVectorizer(
            tokenizer=list,
            preprocessor=list,
            lowercase=False,
            token_pattern=None,
            ngram_range=(1, longest),
            min_df=2,
            sublinear_tf=True,
        )
        rows = tfidf.fit_transform(train.words)
        for c in (1.0, 3.0, 10.0):
            model = linear.LogisticRegression(C=c, max_iter=1000).fit(rows, train.classes)
            answers = _answers(model, tfidf, dev)
            right = float((answers == torch.tensor(dev.classes)).float().mean())
            if best is None or right > best[0]:
                best = right, tfidf, model, {"words": longest, "C": c}
    assert best is not None
    return _answers(best[2], best[1], test), best[3]


def _answers(model: Any, tfidf: Any, sentences: Sentences) -> Tensor:
    """0 or 1 of each sentence, by the classes below and above the middle."""
    p = torch.tensor(model.predict_proba(tfidf.transform(sentences.words)))
    half = p.size(1) // 2
    return (p[:, -half:].sum(1) > p[:, :half].sum(1)).long()


@dataclass(frozen=True)
class PredictSentiment(Prediction):
    """Tells of each line whether it is positive or negative, and which words say so."""

    application = "sentiment"
    expects = "sentences, one a line"
    examples = ('"a gorgeous , witty film"', "reviews.txt --json")

    def load(self, content: dict[str, Any]) -> list[nn.Module]:
        """The models whose probabilities are averaged."""
        numbers = len(Spelt(Vocabulary(content["vocabulary"])))
        return [self.ready(network(content["settings"], numbers), weights) for weights in content["weights"]]

    def answer(self, content: dict[str, Any], models: list[Any]) -> Result:
        """Probabilities and words."""
        spelt = Spelt(Vocabulary(content["vocabulary"]))
        lines = [(line, WORD.findall(line.lower())) for line in self.text().splitlines()]
        found = [(line, words, *weight_of_words(models, words, spelt)) for line, words in lines if words]
        shown = [f"{SENTIMENTS[p > 0.5]} {max(p, 1 - p):.0%}  {line.strip()}" for line, _, p, _ in found]
        numbers = [
            {"text": line, "sentiment": SENTIMENTS[p > 0.5], "positive": p, "words": words, "weights": weights}
            for line, words, p, weights in found
        ]
        drawn = partial(draw_words, [row[1:] for row in found[:12]], "What each word adds")
        return Result("\n".join(shown), {"sentences": numbers}, {"words": drawn})


@dataclass(frozen=True)
class Sentiment(Application):
    """Learns whether a sentence of a film review is positive, beside a regression on TF-IDF weights.

    Trained on the whole sentences of the Stanford Sentiment Treebank and their five grades, without its phrases
    and without vectors from elsewhere. (Socher et al., "Recursive deep models", EMNLP 2013.)
    """

    prediction = PredictSentiment
    examples = ("--cell lstm", "--models 1 --seed 3", "--layers torch")

    cell: str = setting("gru", "of the layer", choices=CELLS)
    models: int = setting(3, "of a seed each; their mean accuracy is told, and they answer together", least=1)
    hidden_size: int = setting(64, "units of each direction", least=1)
    embedding_size: int = setting(64, "features of a word", least=1)
    epochs: int = setting(6, "times that each sentence is trained on", least=1)
    batch_size: int = setting(32, "sentences of a step", least=1)
    dropout: float = setting(0.5, "share of features dropped in training", least=0, most=1)
    hide: float = setting(0.2, "share of words hidden in training", least=0, most=1)
    rate: float = setting(3e-3, "highest learning rate", least=0)

    def fit(self) -> Any:
        """The trained models and what they were trained on."""
        found = data.find("sst", self.data, [*FILES.values(), GRADED])
        graded = Sentences.graded(found)
        parts = [Sentences.read(found, part) for part in FILES]
        spelt = Spelt(graded.vocabulary(least=2))
        train, dev = Coded.of(graded, spelt), Coded.of(parts[1], spelt)
        models, curves = [], []
        for number in range(self.models):
            seed = self.seed + 1000 * number
            torch.manual_seed(seed)
            model = network(self.settings(), len(spelt))
            task = SentimentTask(model, train, dev, batch_size=self.batch_size, seed=seed, hidden=self.hide)
            per_epoch = task.order.steps_per_epoch
            minutes = None if self.minutes is None else self.minutes / self.models
            schedule = Schedule(
                self.epochs * per_epoch, self.rate, weight_decay=0.05, evaluate_every=per_epoch, minutes=minutes
            )
            curves.append(self.trainer(seed).train(task, schedule, f"sentiment-{number + 1}"))
            models.append(task.model)
        return models, curves, [graded, *parts], spelt

    def report(self, trained: Any) -> Result:
        """Saves the models and judges them on the held-out sentences, beside the regression."""
        models, curves, (graded, train, dev, test), spelt = trained
        self.save_model("sentiment", models, vocabulary=spelt.vocabulary.tokens)
        held_out = Coded.of(test, spelt)
        regressions, chosen = {}, {}
        for name, part in ((REGRESSION, train), (f"{REGRESSION}, five grades", graded)):
            answers, chosen[name] = regression(part, dev, test)
            regressions[name] = scores(held_out.classes, answers)
        each = [scores(held_out.classes, (positive([m], held_out) > 0.5).long()) for m in models]
        mean = {name: sum(row[name] for row in each) / len(each) for name in each[0]}
        together = scores(held_out.classes, (positive(models, held_out) > 0.5).long())
        compared = {
            **regressions,
            f"bidirectional {self.cell}, mean of {len(each)} seeds": mean,
            "these together": together,
        }
        rows = [[name, f"{row['accuracy']:.1%}", f"{row['macro-F1']:.3f}"] for name, row in compared.items()]
        rows.append(["LSTM with GloVe and phrases, published", f"{PUBLISHED:.1%}", ""])
        lines = [f"{len(test.words):,} held-out sentences:", "", table(["", "accuracy", "macro-F1"], rows)]
        numbers = {
            "settings": self.settings(),
            "compared": compared,
            "seeds": each,
            "regression": chosen,
            "gain": mean["accuracy"] - max(row["accuracy"] for row in regressions.values()),
            "curves": [curve.metrics for curve in curves],
            "seconds": [curve.seconds for curve in curves],
        }
        short = [words for words in test.words if 6 <= len(words) <= 12][:12]
        drawn = [(words, *weight_of_words(models, words, spelt)) for words in short]
        figure = partial(draw_words, drawn, "Held-out sentences: what each word adds")
        return Result("\n".join(lines), numbers, {"words": figure})


def draw_words(rows: list[tuple[list[str], float, list[float]]], title: str) -> Figure:
    """Sentences, each word on a ground that tells whether it speaks for positive or negative, and the outcome."""
    figure, (axes,) = panels(height=1.6 + 0.42 * len(rows))
    colors: Any = needs("matplotlib", "recipes").colormaps["RdYlGn"]
    shades = [
        [(word, colors(0.5 + max(-0.5, min(0.5, w / 6)))) for word, w in zip(words, weights, strict=True)]
        for words, _, weights in rows
    ]
    right, size = write_words(axes, shades, beside=16)
    for row, (_, p, _) in enumerate(rows):
        axes.text(right, row, f"{SENTIMENTS[p > 0.5]} {max(p, 1 - p):.0%}", size=size, va="center")
    axes.set(xlabel="red: speaks for negative, green: for positive", ylabel="sentences", title=title)
    return figure


__all__ = ["PredictSentiment", "Sentiment", "SentimentModel", "SentimentTask", "positive", "weight_of_words"]
