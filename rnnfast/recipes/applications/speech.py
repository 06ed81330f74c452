"""Speech: digits spoken one after another, as text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..._program import Result, needs, setting
from ...lab.report import table
from .. import data
from ..training import Schedule, Task, generator
from ..vocabulary import padded
from . import sound, speech_figures, spoken
from .application import Application, Prediction
from .recognizer import SpeechModel, best_path, ctc, heard
from .spoken import WORDS, Clip, Spoken

LETTERS = " " + "".join(sorted(set("".join(WORDS))))  # symbol 0 is the blank
DIGITS = {word: digit for digit, word in enumerate(WORDS)}
LEAST, MOST = 1, 7  # digits of a string to train on
EVALUATIONS = 10
TEST_SEED = 1_000_003  # of the strings held out, whatever the program's seed
ROUNDS = 4  # how often each held-out recording occurs in strings
PUBLISHED = 0.9733  # of github.com/aniruddhapal211316/spoken_digit_recognition, on a random tenth of the same set


def network(settings: dict[str, Any], letters: str) -> SpeechModel:
    """An untrained model."""
    names = ("hidden_size", "cell", "num_layers", "bidirectional", "dropout", "layers")
    return SpeechModel(1 + len(letters), **{name: settings[name] for name in names})


def encoded(texts: list[str]) -> tuple[Tensor, Tensor]:
    """Texts as symbols (B, L) and how many each has, (B,)."""
    return padded([[1 + LETTERS.index(letter) for letter in text] for text in texts])


class SpeechTask(Task):
    """Strings of a random speaker's random recordings, changed at random.

    Args:
        train: recordings; dev: strings to look at meanwhile.
        mask: bands and steps that are hidden at most, twice each.
    """

    def __init__(
        self,
        model: SpeechModel,
        train: list[Clip],
        dev: list[Spoken],
        *,
        batch_size: int,
        seed: int,
        mask: int,
    ) -> None:
        super().__init__(model)
        self.speakers, self.dev, self.seed = spoken.by_speaker(train), dev, seed
        self.batch_size, self.mask = batch_size, mask
        self.dev_batches = list(batches([string.samples for string in dev]))

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features (B, T, MELS) and lengths, symbols (B, L) and how many."""
        random = generator(self.seed, step)
        found = [self.string(random) for _ in range(self.batch_size)]
        features, lengths = spoken.batch([spoken.augmented(string.samples, random) for string in found])
        hide(features, lengths, self.mask, random)
        return features, lengths, *encoded([string.text for string in found])

    def string(self, random: torch.Generator) -> Spoken:
        """A string to train on."""

        def draw(least: int, beyond: int) -> int:
            return int(torch.randint(least, beyond, (), generator=random))

        own = self.speakers[draw(0, len(self.speakers))]
        count = draw(LEAST, MOST + 1)
        return spoken.joined([own[draw(0, len(own))] for _ in range(count)], random, varied=True)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, int]:
        """-log p of the letters."""
        features, lengths, symbols, counts = batch
        return ctc(model(features, lengths), symbols, counts).sum(), int(counts.sum())

    def evaluate(self) -> dict[str, float]:
        """Error rates of the strings to look at."""
        found = [text(row) for row in heard(self.model, self.dev_batches)]
        return rates([string.text for string in self.dev], found)


def hide(features: Tensor, lengths: Tensor, most: int, random: torch.Generator) -> None:
    """Sets two stripes of bands and two of frames to 0 in each recording, each of at most so many, in place.

    (Park et al., "SpecAugment", arXiv:1904.08779; 0 is about the mean of all features.)
    """
    B, T, M = features.shape
    for dim, size, ends in ((2, M, torch.full((B,), M)), (1, T, lengths)):
        for _ in range(2):
            width = (torch.rand(B, generator=random) * (most + 1)).int()
            begin = (torch.rand(B, generator=random) * (ends - width).clamp(min=0)).int()
            place = torch.arange(size)
            stripe = (place >= begin[:, None]) & (place < (begin + width)[:, None])
            features.masked_fill_(stripe.unsqueeze(3 - dim), 0.0)


def batches(recordings: list[Tensor], size: int = 32) -> Any:
    """Features and lengths of recordings, so many at a time."""
    for begin in range(0, len(recordings), size):
        yield spoken.batch(recordings[begin : begin + size])


def text(log_p: Tensor) -> str:
    """The words of the best path."""
    return " ".join(word.text for word in best_path(log_p, LETTERS))


def rates(truth: list[str], found: list[str]) -> dict[str, float]:
    """Words, and letters, replaced, left out or added, for each that there is; counted by jiwer."""
    jiwer: Any = needs("jiwer", "recipes")
    words, letters = jiwer.wer(truth, found), jiwer.cer(truth, found)
    return {"word error rate": float(words), "letter error rate": float(letters)}


def nearest(log_p: list[Tensor]) -> Tensor:
    """Which digit's word is the most probable of the ten, by CTC, in each recording of one: (N,)."""
    symbols, counts = encoded(list(WORDS))
    found = []
    for row in log_p:
        lengths = torch.full((len(WORDS),), len(row))
        found.append(ctc((row.expand(len(WORDS), -1, -1), lengths), symbols, counts).argmin())
    return torch.stack(found)


def judge_singles(model: Any, clips: list[Clip]) -> tuple[dict[str, float], Tensor]:
    """The share of single digits that are spelt right, and of those nearest to their word of the ten.

    Also (10, 10): how many of each digit are nearest to which.
    """
    log_p = heard(model, batches([clip.samples for clip in clips]))
    truth = torch.tensor([clip.digit for clip in clips])
    spelt = [text(row) == WORDS[clip.digit] for row, clip in zip(log_p, clips, strict=True)]
    digits = nearest(log_p)
    confusion = torch.zeros(len(WORDS), len(WORDS))
    confusion.index_put_((truth, digits), torch.ones(len(clips)), accumulate=True)
    right = float((digits == truth).float().mean())
    return {"spelt": sum(spelt) / len(spelt), "nearest of ten": right}, confusion


def judge_strings(model: Any, strings: list[Spoken]) -> dict[str, float]:
    """Errors of words and letters, strings that are right as a whole, and words found where they are.

    The last: of strings that are right, the share of words the middle of whose time lies in that of the recording.
    """
    log_p = heard(model, batches([string.samples for string in strings]))
    words = [best_path(row, LETTERS) for row in log_p]
    found = [" ".join(word.text for word in row) for row in words]
    right, inside = 0, []
    for string, row, said in zip(strings, words, found, strict=True):
        if said == string.text:
            right += 1
            middles = [(word.begin + word.end) / 2 for word in row]
            inside += [begin <= m <= end for m, (begin, end) in zip(middles, string.times, strict=True)]
    return {
        **rates([string.text for string in strings], found),
        "strings right": right / len(strings),
        "in their place": sum(inside) / max(1, len(inside)),
    }


@dataclass(frozen=True)
class PredictSpeech(Prediction):
    """Writes down the digits that are spoken in a recording, and when each is."""

    application = "speech"
    expects = "a sound file"
    examples = ("number.wav", "number.flac --json --output heard")

    def load(self, content: dict[str, Any]) -> list[nn.Module]:
        """The model."""
        return [self.ready(network(content["settings"], content["letters"]), content["weights"][0])]

    def answer(self, content: dict[str, Any], models: list[Any]) -> Result:
        """Words, their times, and a picture."""
        samples, letters = sound.read(self.file(), "INPUT"), content["letters"]
        features, lengths = spoken.batch([samples])
        log_p = heard(models[0], [(features, lengths)])[0]
        words = best_path(log_p, letters)
        said = " ".join(word.text for word in words)
        numbers = {
            "text": said,
            "digits": [DIGITS.get(word.text) for word in words],  # None: a word that is no digit
            "words": [asdict(word) for word in words],
            "seconds": len(samples) / sound.RATE,
        }
        drawn = partial(speech_figures.draw_heard, features[0], log_p, words, letters, "What was heard")
        return Result(said or "no words", numbers, {"heard": drawn})


@dataclass(frozen=True)
class Speech(Application):
    """Learns to write down spoken digits, letter by letter, from recordings joined into strings.

    The Free Spoken Digit Dataset with its own split: of each speaker and digit recordings 0 to 4 are held out.
    """

    prediction = PredictSpeech
    examples = ("--held-out theo", "--cell gru", "--no-bidirectional --steps 3000", "--layers torch")

    held_out: str | None = setting(
        None, "who is left out of training, all of whose recordings are the test", metavar="SPEAKER"
    )
    hidden_size: int = setting(128, "units of each direction", least=1)
    num_layers: int = setting(2, "recurrences on one another", least=1)
    bidirectional: bool = setting(True, "whether the recording is read from its end too")
    dropout: float = setting(0.2, "share of features and states dropped in training", least=0, most=1)
    mask: int = setting(4, "bands and frames at most in each of four stripes hidden in training", least=0)
    steps: int = setting(2000, "of training", least=1)
    batch_size: int = setting(16, "strings of a step", least=1)
    rate: float = setting(4e-3, "highest learning rate", least=0)

    def fit(self) -> Any:
        """The trained task, its progress, and the recordings held out."""
        found = data.find("fsdd", self.data)
        train, dev, test = spoken.split(spoken.read(found.files), self.held_out)
        torch.manual_seed(self.seed)
        task = SpeechTask(
            network(self.settings(), LETTERS),
            train,
            spoken.strings(dev, generator(self.seed, 0)),
            batch_size=self.batch_size,
            seed=self.seed,
            mask=self.mask,
        )
        every = max(1, self.steps // EVALUATIONS)
        schedule = Schedule(self.steps, self.rate, evaluate_every=every, minutes=self.minutes)
        return task, self.trainer().train(task, schedule, "speech"), test

    def report(self, trained: Any) -> Result:
        """Saves the model, and judges it on strings of the recordings held out and on these themselves."""
        task, progress, test = trained
        self.save_model("speech", [task.model], letters=LETTERS)
        strings = spoken.strings(test, generator(TEST_SEED, 0), ROUNDS)
        joined = judge_strings(task.model, strings)
        singles, confusion = judge_singles(task.model, test)
        rows = [[name, f"{value:.1%}"] for name, value in joined.items()]
        rows += [[f"single digits, {name}", f"{value:.1%}"] for name, value in singles.items()]
        rows.append(["single digits, a bi-LSTM that tells ten apart, on a random split", f"{PUBLISHED:.1%}"])
        who = f"of {self.held_out}, not trained on" if self.held_out else "held out"
        lines = [
            f"{len(test)} recordings {who}, in {len(strings)} strings and each by itself:",
            "",
            table(["", "share"], rows),
            "",
            f"{progress.step} steps in {progress.seconds:.0f} s",
        ]
        numbers = {
            "settings": self.settings(),
            "strings": joined,
            "singles": singles,
            "published": PUBLISHED,
            "confusion": confusion.int().tolist(),
            "curve": progress.metrics,
            "steps": progress.step,
            "seconds": progress.seconds,
        }
        figures = {
            "speech": partial(draw_string, task.model, strings[0]),
            "errors": partial(speech_figures.draw_errors, progress.metrics, confusion, WORDS),
        }
        return Result("\n".join(lines), numbers, figures)


def draw_string(model: Any, string: Spoken) -> Any:
    """A string held out, as it is heard."""
    features, lengths = spoken.batch([string.samples])
    log_p = heard(model, [(features, lengths)])[0]
    title = f"Held out: {string.text}"
    return speech_figures.draw_heard(features[0], log_p, best_path(log_p, LETTERS), LETTERS, title)


__all__ = ["PredictSpeech", "Speech", "SpeechTask", "judge_singles", "judge_strings", "rates"]
