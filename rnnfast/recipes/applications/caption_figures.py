"""Pictures of captions: images with what was said of them, where it was looked at, and how it was learnt."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...lab.figures import panels
from ..training import Progress
from .captioner import Told
from .curves import plot_losses
from .images import Captioned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIGHT, WRONG, TRUE = "C2", "C3", "0.3"
COLUMNS, WIDTH = 4, 1.4  # pictures in a row, and what of the figure each has: its side is 1
LETTERS = 27  # of a line below a picture
GAZES = 4  # in a row


def draw_captions(found: Captioned, told: Sequence[Told], about: str, count: int = 12) -> Figure:
    """Held-out images with the captions written, and the true one where it is another; some of the latter are
    among those shown, if there are any."""
    said = [" ".join(each.words) for each in told]
    missed = [i for i, caption in enumerate(said) if caption not in found.captions[i]][: count // 4]
    others = [i for i in range(len(said)) if i not in missed and said[i] in found.captions[i]]
    shown = (others + [i for i in range(len(said)) if i not in missed + others])[: count - len(missed)] + missed
    rows = math.ceil(len(shown) / COLUMNS)
    figure, (axes,) = panels(height=1.2 + 2.6 * rows)
    axes.grid(False)
    for place, i in enumerate(shown):
        x, y = WIDTH * (place % COLUMNS), 1.9 * (place // COLUMNS)
        _picture(axes, found.images[i], x, y)
        right = said[i] in found.captions[i]
        lines = textwrap.wrap(said[i], LETTERS) or ["(nothing)"]
        _lines(axes, lines, x, y + 1.05, RIGHT if right else WRONG)
        if not right:
            _lines(axes, textwrap.wrap(found.captions[i][0], LETTERS), x, y + 1.05 + 0.13 * len(lines), TRUE)
    axes.set(xlim=(-0.2, WIDTH * COLUMNS - 0.2), ylim=(1.9 * rows, -0.1), aspect="equal")
    axes.set(xlabel="green: as it should be; red: not, below it in grey the true caption", ylabel="images")
    axes.set_title(f"Captions: {about}")
    axes.set_xticks([])
    axes.set_yticks([])
    return figure


def _picture(axes: Axes, image: Tensor, x: float, y: float) -> None:
    axes.imshow(**_shown(image), extent=(x, x + 1, y + 1, y))


def _shown(image: Tensor) -> dict[str, Any]:
    """An image (C, S, S) uint8 as imshow takes it."""
    values = image.permute(1, 2, 0)
    return {
        "X": (values[:, :, 0] if values.size(2) == 1 else values).numpy(),
        "cmap": "gray",
        "vmin": 0,
        "vmax": 255,
    }


def _lines(axes: Axes, lines: list[str], x: float, y: float, color: str) -> None:
    axes.text(x, y, "\n".join(lines), size=7.5, va="top", color=color)


def draw_told(image: Tensor, told: Told) -> Figure:
    """An image with its caption, and with attention for each word where was looked."""
    words = [] if told.looks is None else told.words
    rows = max(1, math.ceil((1 + len(words)) / GAZES))
    columns = GAZES if words else 1
    figure, axes = panels(rows, columns, height=1.0 + (2.2 * rows if words else 4.0))
    caption = " ".join(told.words) or "(nothing)"
    figure.suptitle("\n".join(textwrap.wrap(caption, 90)))
    for each in axes:
        each.set_axis_off()
    axes[0].imshow(**_shown(image))
    axes[0].set_title("the image", size=9)
    for each, word, look, p in zip(axes[1:], words, _looks(told), told.probabilities, strict=False):
        each.imshow(**_shown(image))
        size = image.size(1)
        each.imshow(look.numpy(), extent=(-0.5, size - 0.5, size - 0.5, -0.5), cmap="inferno", alpha=0.6)
        each.set_title(f"{word} {p:.0%}", size=9)
    return figure


def _looks(told: Told) -> Tensor:
    """How places were looked at, (T, rows, columns)."""
    if told.looks is None:
        return torch.empty(0, 1, 1)
    side = math.isqrt(told.looks.size(1))
    return told.looks.unflatten(1, (side, side))


def draw_curve(progress: Progress) -> Figure:
    """Loss in training and on the images to choose by, and how many of these are told to the word."""
    figure, (axes, exact) = panels(1, 2)
    plot_losses(axes, progress, "to choose by")
    axes.set(ylabel="nats per word", title="Learning")
    axes.set_ylim(bottom=0)
    steps = [found["step"] for found in progress.metrics]
    exact.plot(steps, [100 * found["exact"] for found in progress.metrics], marker="o", color="C1")
    exact.set(xlabel="training step", ylabel="%", ylim=(0, 100), title="To choose by: told to the word")
    return figure


__all__ = ["draw_captions", "draw_curve", "draw_told"]
