"""Captions: an image becomes a sentence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..._program import Result, UserError, setting
from ...lab.report import table
from ...models.attention import ATTENTIONS
from ..order import Order
from ..training import Progress, generator
from ..vocabulary import PADDING, UNKNOWN, Vocabulary, padded
from . import images, scenes
from .application import Application, ChoosingTask, Prediction
from .caption_figures import draw_captions, draw_curve, draw_told
from .captioner import END, START, Captioner, tell
from .images import Captioned, scores

UNSEEN, SEEN, OWN = "unseen combinations", "seen combinations", "held-out images"
BY_CELLS = "cells by logistic regression, and the grammar"
REGRESSED = 5000  # scenes that the regression is fitted to
SIGNS = (PADDING, UNKNOWN, START, END)  # the first of each vocabulary
CONCEPTS = 1.0  # of the loss: what places say by themselves
HELD_OUT = 2000  # scenes of each kind
GLANCE = 500  # images that captions are written for after each epoch
SHOWN, ENLARGED = 6, 8  # scenes written as files, and by how much larger


def network(settings: dict[str, Any], vocabulary: Vocabulary, channels: int) -> Captioner:
    """An untrained model."""
    names = ("size", "embedding_size", "hidden_size", "cell", "dropout", "attention", "layers")
    chosen = {name: settings[name] for name in names}
    start, end = vocabulary[START], vocabulary[END]
    return Captioner(len(vocabulary), start=start, end=end, channels=channels, **chosen)


class Coded(NamedTuple):
    """Captions as numbers: the image (N,) of each, tokens (N, T) with start and end, and lengths (N,)."""

    images: Tensor
    tokens: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, found: Captioned, vocabulary: Vocabulary) -> Coded:
        rows = found.rows()
        tokens, lengths = padded([vocabulary.encode([START, *caption.split(), END]) for _, caption in rows])
        return cls(torch.tensor([image for image, _ in rows]), tokens, lengths)


class CaptionTask(ChoosingTask):
    """Images, each with one of its captions.

    Args:
        train, dev: to train on, and to choose the best weights by.
        longest: the most tokens of a caption that is written.
    """

    def __init__(
        self,
        model: Captioner,
        train: Captioned,
        dev: Captioned,
        vocabulary: Vocabulary,
        *,
        longest: int,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__(model)
        self.train_on, self.dev, self.vocabulary, self.longest = train, dev, vocabulary, longest
        self.rows, self.judged_by = Coded.of(train, vocabulary), Coded.of(dev, vocabulary)
        # In any order of lengths: in batches of like lengths the map would be normalised by what images with as
        # much to tell have in common, and not as it is when the network answers.
        self.order = Order(len(self.rows.lengths), batch_size, seed)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images and tokens."""
        return _chosen(self.train_on, self.rows, self.order[step])

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
        """-log p of words and ends, with a share of the places' for words that are in the caption or not."""
        found, tokens = batch
        following = tokens[:, 1:]
        logits, concepts = model(found, tokens[:, :-1])
        there = torch.zeros_like(concepts).scatter_(1, following, 1.0)
        there[:, : len(SIGNS)] = 0
        placed = F.binary_cross_entropy_with_logits(concepts.float(), there.float(), reduction="sum")
        return nats(logits, following) + CONCEPTS * placed, int((following != PADDING).sum())

    def evaluate(self) -> dict[str, float]:
        """-log p of a word of the images to choose by, and the share of these told to the word."""
        model: Any = self.model
        total, count = 0.0, 0
        for some in torch.arange(len(self.judged_by.lengths)).split(256):
            found, tokens = (part.to(model.where.device) for part in _chosen(self.dev, self.judged_by, some))
            total += float(nats(model(found, tokens[:, :-1])[0], tokens[:, 1:]))
            count += int((tokens[:, 1:] != PADDING).sum())
        self.best.note(model, total / count)
        told = tell(model, self.dev.images[:GLANCE], self.vocabulary, self.longest)
        exact = sum(" ".join(t.words) in row for t, row in zip(told, self.dev.captions, strict=False)) / len(told)
        return {"held out": total / count, "exact": exact}


def nats(logits: Tensor, following: Tensor) -> Tensor:
    """-log p of the tokens (B, T) that follow, but for padding, summed, given logits (B, T, V)."""
    return F.cross_entropy(
        logits.float().flatten(0, 1), following.flatten(), ignore_index=PADDING, reduction="sum"
    )


def _chosen(found: Captioned, coded: Coded, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, C, S, S) and tokens (B, T) of some captions, T no more than it need be."""
    return found.images[coded.images[rows]], coded.tokens[rows, : int(coded.lengths[rows].max())]


class Parts(NamedTuple):
    """Images to train on, to choose by, and held out, by name; and by name other means of finding captions of all
    these held out."""

    train: Captioned
    dev: Captioned
    test: dict[str, Captioned]
    others: dict[str, Callable[[], dict[str, list[str]]]]


def of_scenes(count: int, size: int, seed: int) -> Parts:
    """Scenes of digits: neither the images of digits nor the pairs that are new in a part are in another one."""
    digits, meet = scenes.digit_images(seed), scenes.Meetings.of(seed)
    digits[0] = scenes.varied(digits[0], generator(seed, 0))
    wanted = {"train": (count, 0, frozenset()), "dev": (HELD_OUT // 2, 1, meet.dev)}
    wanted |= {UNSEEN: (HELD_OUT, 2, meet.test), SEEN: (HELD_OUT, 2, frozenset())}
    drawn = {
        name: scenes.scenes(n, digits[part], meet.train, new, f"{seed} {name}")
        for name, (n, part, new) in wanted.items()
    }
    found = {name: Captioned(_sized(d, size), [[s.caption()] for s in each]) for name, (each, d) in drawn.items()}
    test = {name: drawn[name][1] for name in (UNSEEN, SEEN)}

    def by_cells() -> dict[str, list[str]]:
        known, images_of = (part[:REGRESSED] for part in drawn["train"])
        return dict(zip(test, scenes.by_cells(known, images_of, list(test.values())), strict=True))

    return Parts(found["train"], found["dev"], {name: found[name] for name in test}, {BY_CELLS: by_cells})


def _sized(drawn: Tensor, size: int) -> Tensor:
    """Images (N, 32, 32) as (N, 1, S, S)."""
    drawn = drawn.unsqueeze(1)
    if size == scenes.SIDE:
        return drawn
    return F.interpolate(drawn.float(), (size, size), mode="area").round().to(torch.uint8)


def most_frequent(train: Captioned, test: Captioned) -> list[str]:
    """The same caption for each image."""
    ((caption, _),) = Counter(c for _, c in train.rows()).most_common(1)
    return [caption] * len(test)


def nearest(train: Captioned, test: Captioned) -> list[str]:
    """The caption of the training image that is nearest by its pixels (Devlin et al., arXiv:1505.04467)."""
    known, wanted = _pixels(train.images), _pixels(test.images)
    places = [torch.cdist(some, known).argmin(1) for some in wanted.split(200)]
    return [train.captions[i][0] for i in torch.cat(places).tolist()]


def _pixels(found: Tensor) -> Tensor:
    """Images as vectors, of no more pixels than a scene has."""
    if found.size(2) > scenes.SIDE:
        found = torch.cat([F.adaptive_avg_pool2d(some.float(), scenes.SIDE) for some in found.split(256)])
    return found.flatten(1).float()


@dataclass(frozen=True)
class PredictCaption(Prediction):
    """Tells in a sentence what is to be seen in an image."""

    application = "caption"
    expects = "an image file"
    examples = ("rnnfast-output/caption/scene-1.png", "photo.jpg --output told")

    beam: int = setting(1, "width of the beam search; 1 takes the most probable word each time", least=1)

    def load(self, content: dict[str, Any]) -> list[nn.Module]:
        """The model."""
        vocabulary = Vocabulary(content["vocabulary"])
        return [self.ready(network(content["settings"], vocabulary, content["channels"]), content["weights"][0])]

    def answer(self, content: dict[str, Any], models: list[Any]) -> Result:
        """The caption, and how probable each word was."""
        image = images.read_image(self.file(), content["settings"]["size"], content["channels"], "INPUT")
        vocabulary = Vocabulary(content["vocabulary"])
        (told,) = tell(models[0], image[None], vocabulary, content["longest"], self.beam)
        words = [{"word": w, "probability": p} for w, p in zip(told.words, told.probabilities, strict=False)]
        caption = " ".join(told.words)
        numbers = {"caption": caption, "probability": math.prod(told.probabilities), "words": words}
        return Result(caption, numbers, {"caption": partial(draw_told, image, told)})


@dataclass(frozen=True)
class Caption(Application):
    """Learns to tell in a sentence what is to be seen in an image: scenes of digits, or images of yours.

    Scenes have two to four of scikit-learn's handwritten digits. Some digits never meet in training: told are the
    captions of scenes, of digit images that are new as well, in which they do.
    """

    prediction = PredictCaption
    examples = ("--attention none", "--images photos --captions photos.csv --size 64", "--cell gru --minutes 2")

    images: Path | None = setting(None, "folder with images of yours, in place of the scenes", metavar="FOLDER")
    captions: Path | None = setting(
        None,
        "their captions, CSV or TSV: the first line names the columns, file and caption",
        metavar="FILE",
    )
    size: int = setting(32, "pixels that images are stretched to, in both directions", least=8)
    grey: bool = setting(False, "whether --images are made grey")
    scenes: int = setting(20000, "scenes to train on", least=1)
    attention: str = setting("scaled_luong", "of each word to the image", choices=("none", *ATTENTIONS))
    hidden_size: int = setting(256, "units", least=1)
    embedding_size: int = setting(64, "features of a word", least=1)
    epochs: int = setting(10, "times that each caption is trained on", least=1)
    batch_size: int = setting(64, "captions of a step", least=1)
    dropout: float = setting(0.2, "share of what is read out that is dropped in training", least=0, most=1)
    rate: float = setting(3e-3, "highest learning rate", least=0)

    def fit(self) -> tuple[CaptionTask, Progress, Parts]:
        """The trained task, its progress, and the images of each part."""
        parts = self.read()
        vocabulary = Vocabulary(
            [START, END, *sorted({word for _, caption in parts.train.rows() for word in caption.split()})]
        )
        longest = 1 + max(len(caption.split()) for _, caption in parts.train.rows())
        torch.manual_seed(self.seed)
        task = CaptionTask(
            network(self.settings(), vocabulary, parts.train.images.size(1)),
            parts.train,
            parts.dev,
            vocabulary,
            longest=longest,
            batch_size=self.batch_size,
            seed=self.seed,
        )
        return task, self.train_and_choose(task, "caption", epochs=self.epochs, rate=self.rate), parts

    def read(self) -> Parts:
        """The images of each part."""
        if self.images is None and self.captions is None:
            return of_scenes(self.scenes, self.size, self.seed)
        if self.images is None or self.captions is None:
            missing = "--images" if self.images is None else "--captions"
            raise UserError(f"{missing}: none given; --images FOLDER and --captions FILE go together")
        channels = 1 if self.grey else 3
        train, dev, test = images.read(
            self.images, self.captions, size=self.size, channels=channels, seed=self.seed
        )
        return Parts(train, dev, {OWN: test}, {})

    def report(self, trained: tuple[CaptionTask, Progress, Parts]) -> Result:
        """Saves the model and judges its captions, beside those by other means."""
        task, progress, parts = trained
        model: Any = task.model
        self.save_model(
            "caption",
            [model],
            vocabulary=task.vocabulary.tokens,
            channels=parts.train.images.size(1),
            longest=task.longest,
        )
        told = {name: tell(model, part.images, task.vocabulary, task.longest) for name, part in parts.test.items()}
        others = {means: find() for means, find in parts.others.items()}
        judged = {}
        for name, test in parts.test.items():
            found = {"most frequent caption": most_frequent(parts.train, test)}
            found["caption of the nearest image"] = nearest(parts.train, test)
            found |= {means: captions[name] for means, captions in others.items()}
            found[self.cell] = [" ".join(each.words) for each in told[name]]
            judged[name] = {means: scores(captions, test.captions) for means, captions in found.items()}
        lines: list[str] = []
        for name, rows in judged.items():
            shown = [[means, f"{row['exact']:.1%}", f"{row['BLEU']:.1f}"] for means, row in rows.items()]
            lines += [table([f"{len(parts.test[name]):,} {name}", "exact", "BLEU"], shown), ""]
        lines.append(f"{progress.step} steps in {progress.seconds:.0f} s")
        numbers = {
            "settings": self.settings(),
            "judged": judged,
            "chosen by": task.best.value,
            "curve": progress.metrics,
            "losses": progress.losses,
            "steps": progress.step,
            "seconds": progress.seconds,
        }
        first = next(iter(parts.test))
        figures = {
            "captions": partial(draw_captions, parts.test[first], told[first], first),
            "curve": partial(draw_curve, progress),
        }
        files = {
            f"scene-{i}.png": partial(images.write_image, image, ENLARGED)
            for i, image in enumerate(parts.test[first].images[:SHOWN] if self.images is None else [], 1)
        }
        return Result("\n".join(lines), numbers, figures, files=files)


__all__ = ["Caption", "CaptionTask", "PredictCaption", "most_frequent", "nearest", "network", "of_scenes"]
