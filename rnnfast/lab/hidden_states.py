"""The states of a network: seen in two dimensions, and what they know."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from .._program import Program, Result, needs, setting
from ..models import CELLS, SequenceClassifier
from .figures import panels
from .report import table
from .tasks import Opinions
from .training import one_thread, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("pca", "tsne")


def project(states: Tensor, method: str = "pca", *, seed: int = 0) -> Tensor:
    """Lays states out in a plane.

    ``"pca"`` shows the two directions in which they vary most; ``"tsne"`` keeps near what is near and says
    nothing of larger distances (van der Maaten and Hinton, "Visualizing data using t-SNE", JMLR 9, 2008).

    Args:
        states: (N, H), N and H at least 2.
        method: ``"pca"`` or ``"tsne"``, both scikit-learn's.
        seed: of t-SNE.

    Returns:
        (N, 2) float32.

    Raises:
        ValueError: for an unknown method or another shape.
        UserError: where there is no scikit-learn.

    Example:
        >>> project(torch.randn(50, 32)).shape
        torch.Size([50, 2])
    """
    if method not in METHODS:
        raise ValueError(f"method: got {method!r}, expected one of {', '.join(map(repr, METHODS))}")
    if states.dim() != 2 or min(states.shape) < 2:
        raise ValueError(f"states: got shape {tuple(states.shape)}, expected (N, H), both at least 2")
    values = states.detach().float().cpu().numpy()
    found: Any
    if method == "pca":
        found = needs("sklearn.decomposition", "lab").PCA(2, random_state=seed)
    else:
        perplexity = min(30.0, (len(values) - 1) / 3)
        found = needs("sklearn.manifold", "lab").TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    return torch.tensor(found.fit_transform(values), dtype=torch.float32)


def draw_states(
    points: Tensor, labels: Tensor, positions: Tensor, *, names: Sequence[str] | None = None, title: str = ""
) -> Figure:
    """The same points twice: coloured by the label of their sequence, and by their position in it.

    Args:
        points: (N, 2), from :func:`project`.
        labels: (N,) integers from 0.
        positions: (N,), the step that each state follows.
        names: of the labels.
        title: of the figure.

    Raises:
        ValueError: for shapes that do not fit.
        UserError: where there is no matplotlib.
    """
    n = len(points)
    if points.shape != (n, 2) or labels.shape != (n,) or positions.shape != (n,):
        shapes = f"{tuple(points.shape)}, {tuple(labels.shape)}, {tuple(positions.shape)}"
        raise ValueError(f"points, labels, positions: got shapes {shapes}, expected (N, 2), (N,), (N,)")
    points, labels, positions = points.cpu(), labels.cpu(), positions.cpu()
    figure, (by_label, by_position) = panels(1, 2, sharex=True, sharey=True)
    dots: dict[str, Any] = dict(s=9, alpha=0.7, linewidths=0)
    for i, label in enumerate(labels.unique().tolist()):
        x, y = points[labels == label].T
        by_label.scatter(x, y, color=f"C{i}", label=str(label) if names is None else names[label], **dots)
    handles, texts = by_label.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower left", ncols=len(texts), markerscale=2)
    by_label.set(title="by label", xlabel="first dimension", ylabel="second dimension")
    x, y = points.T
    shown = by_position.scatter(x, y, c=positions, cmap="viridis", **dots)
    figure.colorbar(shown, ax=by_position, label="position (step)")
    by_position.set(title="by position", xlabel="first dimension")
    if title:
        figure.suptitle(title)
    return figure


def stacked(states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """States (B, T, H) of labelled sequences (B,) as (B T, H), each with its label and its position, (B T,)."""
    B, T, _ = states.shape
    return states.flatten(0, 1), labels.repeat_interleave(T), torch.arange(T).repeat(B)


def readable(states: Tensor, labels: Tensor) -> list[float]:
    """How well a linear classifier reads the label of a sequence from its state after each step.

    Args:
        states: (B, T, H).
        labels: (B,) integers.

    Returns:
        For each step the accuracy of logistic regression (scikit-learn's), fitted on one half of the sequences, on
        the other half.

    Raises:
        UserError: where there is no scikit-learn.
    """
    linear = needs("sklearn.linear_model", "lab")
    half = len(states) // 2
    found = []
    for step in states.detach().float().cpu().numpy().swapaxes(0, 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # how far the fit converged does not matter here
            probe = linear.LogisticRegression(max_iter=200).fit(step[:half], labels[:half].cpu())
        found.append(float(probe.score(step[half:], labels[half:].cpu())))
    return found


@dataclass(frozen=True)
class HiddenStatesExperiment(Program):
    """What do the states of a classifier look like, by label and by position?

    Learnt is whether made-up sentences say more good than bad, with a "not" that turns the next word round. For
    real sentences see `exercise hidden-states`.
    """

    section: ClassVar[str] = "Exercise 5: Visualize Hidden States"
    examples: ClassVar[tuple[str, ...]] = ("--cell rnn --length 30",)

    cell: str = setting("gru", "of the layer", choices=CELLS)
    seeds: int = setting(3, "networks; the first is drawn", least=1)
    length: int = setting(16, "words of a sentence", least=2)
    hidden_size: int = setting(32, "units", least=2)
    steps: int = setting(600, "of training", least=1)
    sentences: int = setting(100, "whose states are drawn", least=2)

    def run(self) -> Result:
        """Trains, reads and projects."""
        task = Opinions(self.length)
        words, labels = task.held_out()
        errors, known = [], []
        drawn: Tensor | None = None
        with one_thread():
            for seed in range(self.seed, self.seed + self.seeds):
                torch.manual_seed(seed)
                model = SequenceClassifier(task.vocabulary, 16, self.hidden_size, 2, cell=self.cell).to(
                    self.device
                )
                train(model, task, steps=self.steps, batch_size=64, rate=0.005, clip=1.0, seed=seed)
                with torch.no_grad():
                    states = model.states(words.to(self.device)).cpu()
                    errors.append(float((model(words.to(self.device)).argmax(1).cpu() != labels).float().mean()))
                known.append(readable(states, labels))
                drawn = states[: self.sentences] if drawn is None else drawn
            assert drawn is not None
            flat, of, positions = stacked(drawn, labels[: self.sentences])
            points = {method: project(flat, method, seed=self.seed) for method in METHODS}
        rows = [
            [f"{t + 1}", f"{min(k[t] for k in known):.1%}", f"{max(k[t] for k in known):.1%}"]
            for t in sorted({0, self.length // 4, self.length // 2, 3 * self.length // 4, self.length - 1})
        ]
        heading = (
            f"{self.cell}, {self.seeds} networks, wrong about {min(errors):.1%} to {max(errors):.1%} of held-out "
            f"sentences of {self.length} words. How often a linear classifier reads the sentence's label from the "
            "state:"
        )
        data: dict[str, Any] = {
            "errors": errors,
            "readable": known,
            "points": {
                method: [[round(v, 3) for v in point] for point in xy.tolist()] for method, xy in points.items()
            },
            "labels": of.tolist(),
            "positions": positions.tolist(),
        }
        title = {"pca": "Hidden states, two principal components", "tsne": "Hidden states, t-SNE"}
        names = ["more bad or even", "more good"]
        figures = {
            method: partial(draw_states, xy, of, positions, names=names, title=title[method])
            for method, xy in points.items()
        }
        return Result(f"{heading}\n\n{table(['after word', 'least', 'most'], rows)}", data, figures)


__all__ = ["METHODS", "HiddenStatesExperiment", "draw_states", "project", "readable", "stacked"]
