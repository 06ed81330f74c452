"""How a training went, drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..training import Progress

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLOCKS = 100  # of steps, whose mean losses are drawn


def plot_losses(axes: Axes, progress: Progress, label: str) -> None:
    """Loss in training, and the metric "held out" of each evaluation, under the label given."""
    span = max(1, len(progress.losses) // BLOCKS)
    blocks = [progress.losses[i : i + span] for i in range(0, len(progress.losses), span)]
    axes.plot([i * span for i in range(len(blocks))], [sum(b) / len(b) for b in blocks], label="training")
    steps = [found["step"] for found in progress.metrics]
    axes.plot(steps, [found["held out"] for found in progress.metrics], marker="o", label=label)
    axes.set_xlabel("training step")
    axes.legend()


__all__ = ["plot_losses"]
