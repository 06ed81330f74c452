"""What the laboratory's figures have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .._program import needs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

# The same in every figure.
COLORS = {
    "feedforward": "0.6",
    "rnn": "C0",
    "lstm": "C1",
    "gru": "C2",
    "rnn-orthogonal": "C9",
    "irnn": "C8",
    "lstm-forget-1": "C6",
    "lstm-chrono": "C3",
    "gru-chrono": "C4",
    "rnn-skip": "C5",
    "rnn-attention": "C7",
}
LUMINANCE = (0.2126, 0.7152, 0.0722)  # of red, green and blue (ITU-R BT.709)
WIDTH, HEIGHT = 8.0, 4.5  # inches: 800 pixels wide at 100 to the inch


def panels(
    rows: int = 1, columns: int = 1, *, height: float = HEIGHT, **options: Any
) -> tuple[Figure, list[Axes]]:
    """An empty figure and its panels, row by row.

    Raises:
        UserError: where there is no matplotlib.
    """
    figure = needs("matplotlib.figure", "lab").Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for each in axes.flat:
        each.grid(True, alpha=0.3)
    return figure, list(axes.flat)


def band(axes: Axes, x: Sequence[float], seeds: Sequence[Sequence[float]], label: str, **style: Any) -> None:
    """The median over seeds as a line, from the least to the greatest as a shade."""
    numpy = needs("numpy", "lab")
    values = numpy.array(seeds, dtype=float)
    style = {"color": COLORS.get(label), **style}
    (line,) = axes.plot(x, numpy.median(values, axis=0), label=label, **style)
    if len(seeds) > 1:
        axes.fill_between(x, values.min(0), values.max(0), color=line.get_color(), alpha=0.15, linewidth=0)


def draw_attention(axes: Axes, weights: Tensor, source: Sequence[str], target: Sequence[str]) -> None:
    """Weights (T, S) of what is looked at, S, when each of T is written, with the names of both."""
    axes.grid(False)
    image = axes.imshow(weights.numpy(), vmin=0, vmax=1, cmap="magma", aspect="auto")
    axes.set_xticks(range(len(source)), source)
    for label in axes.get_xticklabels():
        label.set_rotation(90 if len(label.get_text()) > 1 else 0)
    axes.tick_params(axis="x", length=0)
    axes.set_yticks(range(len(target)), target)
    axes.figure.colorbar(image, ax=axes, label="attention")


def write_words(axes: Axes, rows: Sequence[Sequence[tuple[str, Any]]], beside: int = 0) -> tuple[int, float]:
    """Rows of words, each on a ground of its color, or of none.

    Args:
        beside: signs to leave free on the right.

    Returns:
        Where in x these begin, and the size of the letters.
    """
    to_rgb = needs("matplotlib.colors", "lab").to_rgb
    widest = max(sum(len(word) + 1 for word, _ in row) for row in rows)
    size = min(9.0, 9.0 * 75 / (widest + beside))
    for y, row in enumerate(rows):
        place = 0
        for word, color in row:
            dark = color is not None and sum(w * c for w, c in zip(LUMINANCE, to_rgb(color), strict=True)) < 0.4
            ground = None if color is None else dict(facecolor=color, edgecolor="none", pad=1.5)
            ink = "white" if dark else "black"
            axes.text(place, y, word, family="monospace", size=size, va="center", color=ink, bbox=ground)
            place += len(word) + 1
    axes.set(xlim=(-1, widest + beside), ylim=(len(rows) - 0.4, -0.6), xticks=[], yticks=[])
    axes.grid(False)
    return widest + 1, size


__all__ = ["COLORS", "HEIGHT", "WIDTH", "band", "draw_attention", "panels", "write_words"]
