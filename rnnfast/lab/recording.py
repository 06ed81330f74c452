"""The norm of dL/dh_t at every step, noted by BPTT itself during an ordinary ``loss.backward()``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from ..modules.base import RecurrentLayer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class _Noted:
    """What one call of a layer left: norms, (T, B, D) and so on, in the layout of its output."""

    def __init__(self, x: Tensor, directions: int, batch_first: bool, batch_sizes: Tensor | None) -> None:
        self.shape, self.device = (*x.shape[:-1], directions), x.device
        self.dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        self.batch_first, self.batch_sizes = batch_first, batch_sizes
        self.found: Tensor | None = None

    def take(self, norms: Tensor) -> None:
        """Called by BPTT."""
        self.found = norms

    def by_time(self) -> Tensor:
        norms = self.found
        if norms is None:
            norms = torch.full(self.shape, torch.nan, dtype=self.dtype, device=self.device)
        if self.batch_sizes is not None:
            return pad_packed_sequence(PackedSequence(norms, self.batch_sizes))[0]
        return norms.transpose(0, 1) if self.batch_first else norms


class Recording:
    """Norms of the gradients of states, by layer, in the order in which the layers were called.

    A name is the module's path in the model and the layer's number in its stack: ``"encoder.rnn.l0"``.
    Directions are D, 2 if bidirectional, otherwise 1.
    """

    def __init__(self) -> None:
        self._calls: dict[str, list[_Noted]] = {}

    def _note(
        self, path: str, layer: int, x: Tensor, bidirectional: bool, batch_first: bool, batch_sizes: Tensor | None
    ) -> Callable[[Tensor], None] | None:
        if not torch.is_grad_enabled():
            return None
        name = f"{path}.l{layer}" if path else f"l{layer}"
        noted = _Noted(x, 2 if bidirectional else 1, batch_first, batch_sizes)
        self._calls.setdefault(name, []).append(noted)
        return noted.take

    @property
    def names(self) -> list[str]:
        """Of the layers that ran."""
        return list(self._calls)

    def calls(self, name: str) -> list[Tensor]:
        """For each call of a layer, the norm of dL/dh_t of each step and row of the batch, (T, B, D).

        Before the clip, where the layer has one. NaN where no backward pass came by; after several, the
        latest one's. A packed batch is padded with zeros, its rows sorted as they were packed.
        """
        if name not in self._calls:
            raise KeyError(f"name: got {name!r}, expected one of {', '.join(self._calls) or '(nothing ran)'}")
        return [noted.by_time() for noted in self._calls[name]]

    def __getitem__(self, name: str) -> Tensor:
        """:meth:`calls`'s last."""
        return self.calls(name)[-1]

    def per_step(self, name: str) -> Tensor:
        """The norm of the gradient of the whole batch's h_t at each step, (T, D), of the latest call."""
        return torch.linalg.vector_norm(self[name], dim=1)

    def draw(self) -> Figure:
        """The norm by step, a line for each layer and direction, of the latest calls."""
        from .._program import needs

        figure = needs("matplotlib.figure", "lab").Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for name in self.names:
            by_step = self.per_step(name).cpu()
            for d, direction in enumerate(["", " (reverse)"][: by_step.size(1)]):
                axes.plot(by_step[:, d], label=name + direction)
        axes.set(xlabel="step t", ylabel="norm of dL/dh_t", yscale="log", title="Gradients of states in BPTT")
        axes.grid(alpha=0.3)
        axes.legend()
        return figure


@contextmanager
def record_gradients(model: nn.Module) -> Iterator[Recording]:
    """Notes ||dL/dh_t|| for each step, row and layer while BPTT runs; training goes on as it would.

    For every rnnfast layer in `model` whose forward pass falls into the ``with`` block; its backward pass may
    come later. The kernels form the norms from gradients that they hold in registers at that moment, so a
    training step costs little more. dL/dh_t is all that reaches the state: through the output, the next steps
    and the layers above.

    Args:
        model: a module with at least one :class:`rnnfast.RNN`, ``LSTM`` or ``GRU`` (:func:`rnnfast.convert`
            turns torch's into these).

    Raises:
        ValueError: if there is none.

    Example:
        >>> rnn = rnnfast.RNN(3, 8)
        >>> with rnnfast.lab.record_gradients(rnn) as recording:
        ...     rnn(torch.randn(20, 4, 3))[0][-1].sum().backward()
        >>> recording["l0"].shape
        torch.Size([20, 4, 1])
    """
    layers = {path: m for path, m in model.named_modules() if isinstance(m, RecurrentLayer)}
    if not layers:
        raise ValueError(
            f"model: got {type(model).__name__} without an rnnfast layer, expected at least one "
            "(rnnfast.convert turns torch.nn's into them)"
        )
    recording = Recording()
    before = {path: layer._recorder for path, layer in layers.items()}
    for path, layer in layers.items():
        layer._recorder = partial(recording._note, path)
    try:
        yield recording
    finally:
        for path, layer in layers.items():
            layer._recorder = before[path]


__all__ = ["Recording", "record_gradients"]
