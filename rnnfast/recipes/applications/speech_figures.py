"""What the recogniser hears, drawn: the spectrogram, the letters below it, and its errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...lab.figures import panels
from .recognizer import FIRST, STEP, Word
from .sound import HOP, MELS, RATE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_heard(features: Tensor, log_p: Tensor, words: Sequence[Word], letters: str, title: str) -> Figure:
    """A recording's spectrogram with the words that were heard in it, and below how probable each letter is.

    Args:
        features: (T, MELS); log_p: (U, symbols).
        letters: symbols from 1 on.
    """
    figure, (bands, symbols) = panels(2, 1, height=7.0)
    frame = HOP / RATE
    begin, end = FIRST, FIRST + max(len(features) * frame, len(log_p) * STEP)
    options: dict[str, Any] = dict(origin="lower", aspect="auto", interpolation="nearest")
    bands.imshow(
        features.T.numpy(),
        cmap="magma",
        extent=(begin, begin + len(features) * frame, -0.5, MELS - 0.5),
        **options,
    )
    for word in words:
        bands.axvspan(word.begin, word.end, color="white", alpha=0.15)
        ground = dict(facecolor="white", alpha=0.8, edgecolor="none", pad=1.5)
        middle = (word.begin + word.end) / 2
        bands.text(middle, MELS - 3, word.text, ha="center", va="center", size="small", bbox=ground, clip_on=True)
    bands.grid(False)
    bands.set(title=title, xlabel="seconds", ylabel="band, equally wide in mel", xlim=(begin, end))
    image = symbols.imshow(
        log_p.exp()[:, 1:].T.numpy(),
        cmap="Blues",
        vmin=0,
        vmax=1,
        extent=(begin, begin + len(log_p) * STEP, -0.5, len(letters) - 0.5),
        **options,
    )
    symbols.set_yticks(range(len(letters)), [letter if letter != " " else "space" for letter in letters])
    symbols.set(
        xlabel="seconds", ylabel="letter", title="Letters on the way (no colour: blank)", xlim=(begin, end)
    )
    figure.colorbar(image, ax=[bands, symbols], label="probability of a letter", shrink=0.5)
    return figure


def draw_errors(metrics: list[dict[str, float]], confusion: Tensor, words: Sequence[str]) -> Figure:
    """Errors while training went on, and which digit was taken for which.

    Args:
        metrics: of each evaluation.
        confusion: (10, 10), recordings of each digit by the digit that they were taken for.
    """
    figure, (curve, matrix) = panels(1, 2)
    for name in ("word error rate", "letter error rate"):
        curve.plot([row["step"] for row in metrics], [row[name] for row in metrics], marker=".", label=name)
    curve.set(xlabel="step", ylabel="errors for each that there is", title="Strings not trained on")
    curve.set_yscale("symlog", linthresh=0.01)
    curve.set_ylim(bottom=0)
    curve.legend()
    matrix.grid(False)
    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    matrix.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    for row in range(len(words)):
        for column in range(len(words)):
            count = int(confusion[row, column])
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                matrix.text(column, row, str(count), ha="center", va="center", size="small", color=color)
    matrix.set_xticks(range(len(words)), words, rotation=90)
    matrix.set_yticks(range(len(words)), words)
    matrix.set(xlabel="taken for", ylabel="spoken", title="Single digits held out")
    return figure


__all__ = ["draw_errors", "draw_heard"]
