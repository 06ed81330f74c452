"""Chorales: which notes come next, and new ones as MIDI."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..._program import Result, setting
from ...lab.figures import panels
from ...models import CELLS, recurrent_layer, run, valid
from .. import data
from ..order import Order
from ..training import Schedule, generator
from . import chorales
from .application import Application, ChoosingTask, Prediction
from .chorales import LOWEST, NOTES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VOICES = 4
SELDOM = -3.0  # the log-odds of a note at first: four of 88
PUBLISHED = {"rnn": 8.91, "lstm": 8.45, "gru": 8.43}  # Bai, Kolter and Koltun, arXiv:1803.01271, table 1


class NotesModel(nn.Module):
    r"""Tells for each note how probable it is in the next frame, each by itself.

    .. math::
        p(x_{t+1, i} = 1 \mid x_1, \dots, x_t) = \sigma(W h_t + b)_i

    (Boulanger-Lewandowski, Bengio and Vincent, arXiv:1206.6392, the RNN of section 3.)

    Args:
        hidden_size, cell, num_layers, layers: as in :func:`rnnfast.models.recurrent_layer`.
        dropout: of states, before they are read out and between layers.

    Shapes:
        * frames: (B, T, 88); lengths: (B,), None if all are T.
        * state: as of the layer.
        * results: logits (B, T, 88) of the frame after each, and the last state.
    """

    def __init__(self, hidden_size: int, *, cell: str, num_layers: int, dropout: float, layers: str) -> None:
        super().__init__()
        self.read = nn.Dropout(dropout)
        self.rnn = recurrent_layer(cell, NOTES, hidden_size, num_layers=num_layers, dropout=dropout, layers=layers)
        self.readout = nn.Linear(hidden_size, NOTES)
        nn.init.constant_(self.readout.bias, SELDOM)

    def forward(self, frames: Tensor, lengths: Tensor | None = None, state: Any = None) -> tuple[Tensor, Any]:
        """Logits, and the last state."""
        states, last = run(self.rnn, frames, state, lengths)
        return self.readout(self.read(states)), last


def network(settings: dict[str, Any]) -> NotesModel:
    """An untrained model."""
    names = ("cell", "num_layers", "dropout", "layers")
    return NotesModel(settings["hidden_size"], **{name: settings[name] for name in names})


class MusicTask(ChoosingTask):
    """Whole chorales, each transposed at random.

    Args:
        train, held_out: frames (T, 88) of each chorale.
        transpose: by how many semitones at most, up or down.
    """

    def __init__(
        self,
        model: NotesModel,
        train: list[Tensor],
        held_out: list[Tensor],
        *,
        batch_size: int,
        seed: int,
        transpose: int,
    ) -> None:
        super().__init__(model)
        self.train_on, self.held_out, self.seed, self.transpose = train, held_out, seed, transpose
        self.order = Order(len(train), batch_size, seed, torch.tensor([len(c) for c in train]))

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Frames (B, T, 88), zero beyond lengths (B,)."""
        rows = self.order[step].tolist()
        draw = generator(self.seed + 1, step)
        by = torch.randint(-self.transpose, self.transpose + 1, (len(rows),), generator=draw).tolist()
        found = [chorales.transposed(self.train_on[row], b) for row, b in zip(rows, by, strict=True)]
        return nn.utils.rnn.pad_sequence(found, batch_first=True), torch.tensor([len(c) for c in found])

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
        """-log p of the frames after the first."""
        frames, lengths = batch
        logits, _ = model(frames[:, :-1], lengths - 1)
        return nats(logits, frames, lengths), int(lengths.sum()) - len(lengths)

    def evaluate(self) -> dict[str, float]:
        """-log p of a frame of held-out chorales."""
        found = self.judge(self.held_out)
        self.best.note(self.model, found)
        return {"held out": found}

    @torch.no_grad()
    def judge(self, found: list[Tensor]) -> float:
        """-log p of a frame, the mean over all frames of some chorales but the first of each."""
        frames = nn.utils.rnn.pad_sequence(found, batch_first=True)
        lengths = torch.tensor([len(c) for c in found])
        place = next(self.model.parameters()).device
        total, count = self.loss(self.model, (frames.to(place), lengths.to(place)))
        return float(total) / count


def nats(logits: Tensor, frames: Tensor, lengths: Tensor) -> Tensor:
    """-log p, summed over notes and over frames (B, T, 88) after the first, given logits (B, T - 1, 88)."""
    each = F.binary_cross_entropy_with_logits(logits.float(), frames[:, 1:], reduction="none").sum(2)
    return each[valid(lengths.to(each.device) - 1, each.size(1))].sum()


@torch.no_grad()
def compose(model: NotesModel, begin: Tensor, length: int, temperature: float, random: torch.Generator) -> Tensor:
    """Goes on after frames (T, 88): the frames added, (length, 88).

    Each note is drawn by itself; of those drawn at most four are kept, the most probable, and of none at all the
    most probable note of all.
    """
    place = next(model.parameters()).device
    logits, state = model(begin[None].to(place))
    added = []
    for _ in range(length):
        p = (logits[0, -1].float() / temperature).sigmoid().cpu()
        drawn = torch.rand(NOTES, generator=random) < p
        kept = torch.zeros(NOTES)
        best = torch.where(drawn, p, torch.zeros(()) if bool(drawn.any()) else p).topk(VOICES)
        kept[best.indices[best.values > 0][: VOICES if bool(drawn.any()) else 1]] = 1
        added.append(kept)
        logits, state = model(kept[None, None].to(place), None, state)
    return torch.stack(added)


@dataclass(frozen=True)
class PredictMusic(Prediction):
    """Composes: goes on after the chords of a MIDI file, or after the beginning of a held-out chorale."""

    application = "music"
    expects = "a MIDI file"
    examples = ("--output composed", "hymn.mid --length 64 --temperature 0.7 --output composed")

    length: int = setting(64, "quarter notes to add", least=1)
    temperature: float = setting(0.8, "lower is more careful, higher more daring", least=1e-6)

    def load(self, content: dict[str, Any]) -> list[nn.Module]:
        """The model."""
        chorales.frames_of(content["begin"])
        return [self.ready(network(content["settings"]), content["weights"][0])]

    def answer(self, content: dict[str, Any], models: list[Any]) -> Result:
        """Chords, and with --output a MIDI file."""
        begin = chorales.frames_of(content["begin"])
        if self.input is not None:
            begin = chorales.read_midi(self.file())
        random = torch.Generator().manual_seed(self.seed)
        added = compose(models[0], begin, self.length, self.temperature, random)
        whole = torch.cat([begin, added])
        lines = [f"After {len(begin)} quarter notes:", *told(added)]
        numbers = {"begin": [chorales.notes(f) for f in begin], "added": [chorales.notes(f) for f in added]}
        figures = {"music": partial(draw_roll, whole, len(begin))}
        return Result("\n".join(lines), numbers, figures, files={"music.mid": partial(chorales.write_midi, whole)})


def told(frames: Tensor, width: int = 4) -> list[str]:
    """Chords by name, some in a line."""
    chords = [" ".join(chorales.name(n) for n in chorales.notes(frame)) or "-" for frame in frames]
    return [
        "  " + "".join(f"{c:20}" for c in chords[i : i + width]).rstrip() for i in range(0, len(chords), width)
    ]


@dataclass(frozen=True)
class Music(Application):
    """Learns which notes follow in Bach's chorales, and composes one as a MIDI file.

    The published split of 229, 76 and 77 chorales; the weights are those that were best on the second part.
    """

    prediction = PredictMusic
    examples = ("--cell lstm", "--transpose 5", "--minutes 2 --layers torch")

    cell: str = setting("gru", "of the layers", choices=CELLS)
    hidden_size: int = setting(200, "units", least=1)
    num_layers: int = setting(1, "recurrences on one another", least=1)
    dropout: float = setting(0.3, "share of states dropped in training", least=0, most=1)
    transpose: int = setting(0, "semitones that chorales are moved by at most in training", least=0)
    epochs: int = setting(40, "times that each chorale is trained on", least=1)
    batch_size: int = setting(4, "chorales of a step", least=1)
    rate: float | None = setting(None, "highest learning rate (default: 0.003, of an rnn 0.001)", least=0)

    def fit(self) -> Any:
        """The trained task, its progress, and the chorales of each part."""
        found = data.find("music", self.data)
        parts = chorales.read(found.files[chorales.FILE])
        torch.manual_seed(self.seed)
        task = MusicTask(
            network(self.settings()),
            parts["train"],
            parts["valid"],
            batch_size=self.batch_size,
            seed=self.seed,
            transpose=self.transpose,
        )
        per_epoch, rate = task.order.steps_per_epoch, self.rate
        if rate is None:
            rate = 1e-3 if self.cell == "rnn" else 3e-3
        schedule = Schedule(self.epochs * per_epoch, rate, evaluate_every=2 * per_epoch, minutes=self.minutes)
        progress = self.trainer().train(task, schedule, "music")
        task.best.restore(task.model)
        return task, progress, parts

    def report(self, trained: Any) -> Result:
        """Saves the model, judges the last part and composes."""
        task, progress, parts = trained
        test = parts["test"]
        begin = test[0][:8]
        self.save_model("music", [task.model], begin=[chorales.notes(frame) for frame in begin])
        each, published = task.judge(test), PUBLISHED[self.cell]
        always = silent(parts["train"], test)
        added = compose(task.model, begin, 56, 0.8, torch.Generator().manual_seed(self.seed))
        lines = [
            f"{len(test)} held-out chorales, {sum(map(len, test)):,} frames, nats per frame:",
            f"  {each:.3f}, published for {self.cell} {published}; each note by its frequency alone {always:.2f}",
            f"  {progress.step} steps in {progress.seconds:.0f} s",
            "",
            "composed after the beginning of a held-out chorale:",
            *told(added[:32]),
        ]
        numbers = {
            "settings": self.settings(),
            "nats per frame": each,
            "valid": task.best.value,
            "by frequency": always,
            "published": published,
            "curve": progress.metrics,
            "steps": progress.step,
            "seconds": progress.seconds,
            "composed": [chorales.notes(frame) for frame in added],
        }
        whole = torch.cat([begin, added])
        figures = {"music": partial(draw, task.model, test[0], whole, len(begin))}
        return Result(
            "\n".join(lines), numbers, figures, files={"chorale.mid": partial(chorales.write_midi, whole)}
        )


def silent(train: list[Tensor], test: list[Tensor]) -> float:
    """-log p of a frame where each note has its frequency in training, whatever came before."""
    p = (torch.cat(train).sum(0) + 0.5) / (sum(map(len, train)) + 1)
    frames = torch.cat([chorale[1:] for chorale in test])
    return float(F.binary_cross_entropy(p.expand_as(frames), frames, reduction="none").sum(1).mean())


@torch.no_grad()
def draw(model: NotesModel, chorale: Tensor, composed: Tensor, begun: int) -> Figure:
    """A held-out chorale on the probabilities that its notes were given, and one composed."""
    figure, axes = panels(2, 1, height=7.0)
    place = next(model.parameters()).device
    p = torch.cat([torch.zeros(1, NOTES), model(chorale[None, :-1].to(place))[0][0].sigmoid().float().cpu()])
    image = axes[0].imshow(
        p.T.numpy(),
        origin="lower",
        aspect="auto",
        cmap="Blues",
        vmin=0,
        vmax=1,
        extent=(-0.5, len(p) - 0.5, LOWEST - 0.5, LOWEST + NOTES - 0.5),
    )
    figure.colorbar(image, label="probability")
    t, note = chorale.nonzero().T
    axes[0].scatter(t, note + LOWEST, s=12, color="C3", marker="s", linewidth=0, label="the chorale's notes")
    axes[0].set(title="A held-out chorale, on what was expected of each frame", xlabel="quarter note")
    axes[0].set_ylabel("note, as MIDI numbers them")
    axes[0].set_ylim(int(note.min()) + LOWEST - 6, int(note.max()) + LOWEST + 4)
    axes[0].legend(loc="lower right")
    roll(axes[1], composed, begun)
    return figure


def roll(axes: Axes, frames: Tensor, begun: int) -> None:
    """Notes as bars."""
    for t, note in frames.nonzero().tolist():
        axes.barh(note + LOWEST, 1, left=t, color="0.4" if t < begun else "C0", height=0.9)
    axes.axvline(begun, color="C3", linestyle="--", label="composed from here on")
    axes.set(title="Composed", xlabel="quarter note", ylabel="note, as MIDI numbers them")
    axes.legend(loc="lower right")


def draw_roll(frames: Tensor, begun: int) -> Figure:
    """What was given and what was composed."""
    figure, (axes,) = panels()
    roll(axes, frames, begun)
    return figure


__all__ = ["Music", "MusicTask", "NotesModel", "PredictMusic", "compose"]
