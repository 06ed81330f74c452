"""Models by name, as the experiments compare them: cells, initial values and what else is said to help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .. import initialization
from ..models import Attention, Dilated, Feedforward, ReadoutRNN, recurrent_layer
from .tasks import Task

# A new model for a task, with so many units.
Maker = Callable[[Task, int], nn.Module]


class SkipRNN(nn.Module):
    r"""Elman layers stacked so that most of a distance in time is crossed in long steps.

    .. math::
        h^l_t = \tanh(W^l_{ih} h^{l-1}_t + W^l_{hh} h^l_{t-k_l} + b^l), \quad y_t = W_{hy} h^L_t + b_y

    (Chang et al., "Dilated recurrent neural networks", arXiv:1710.02224.)

    Args:
        input_size, hidden_size, output_size: I, H and O.
        dilations: how many steps back each layer sees, k_l; without 1 among them, most of the past is never seen.

    Shapes: (B, T, I) to (B, T, O).
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        sizes = [input_size] + [hidden_size] * (len(dilations) - 1)
        self.rnns = nn.ModuleList(Dilated(i, hidden_size, k) for i, k in zip(sizes, dilations, strict=True))
        self.readout = nn.Linear(hidden_size, output_size)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of all steps."""
        for rnn in self.rnns:
            x, _ = rnn(x)
        return self.readout(x)


class AttentiveRNN(nn.Module):
    """An Elman layer whose last state looks at all of its states before it is read out.

    The look is additive attention (Bahdanau, Cho and Bengio, arXiv:1409.0473), as in
    :class:`rnnfast.models.Attention`.

    Shapes: (B, T, I) to (B, 1, O), for the last step only.
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        self.rnn = recurrent_layer("rnn", input_size, hidden_size)
        self.attention = Attention("bahdanau", hidden_size, hidden_size)
        self.readout = nn.Linear(hidden_size, output_size)

    def forward(self, x: Tensor) -> Tensor:
        """The output of the last step."""
        states, _ = self.rnn(x)
        found, _ = self.attention(states[:, -1:], self.attention.memory(states))
        return self.readout(found)


def _recurrent(cell: str, change: Callable[[Any, Task], object] | None = None) -> Maker:
    """A readout of one recurrent layer, whose initial values `change` changes."""

    def make(task: Task, hidden_size: int) -> nn.Module:
        model = ReadoutRNN(task.input_size, hidden_size, task.output_size, cell=cell)
        if change is not None:
            change(model.rnn, task)
        return model

    return make


def _skip(task: Task, hidden_size: int) -> nn.Module:
    # Long steps first: what the first layer must hold then passes few tanh, and so does its gradient.
    dilations = (max(2, round(task.length**0.5)), 1)
    return SkipRNN(task.input_size, hidden_size, task.output_size, dilations)


CANDIDATES: dict[str, Maker] = {
    "rnn": _recurrent("rnn"),
    "lstm": _recurrent("lstm"),
    "gru": _recurrent("gru"),
    "feedforward": lambda task, hidden: Feedforward(task.input_size, hidden, task.output_size),
    "rnn-orthogonal": _recurrent("rnn", lambda layer, task: initialization.orthogonal_(layer)),
    "irnn": _recurrent("rnn_relu", lambda layer, task: initialization.identity_(layer)),
    "lstm-forget-1": _recurrent("lstm", lambda layer, task: initialization.forget_bias_(layer, 1.0)),
    "lstm-chrono": _recurrent("lstm", lambda layer, task: initialization.chrono_(layer, task.length)),
    "gru-chrono": _recurrent("gru", lambda layer, task: initialization.chrono_(layer, task.length)),
    "rnn-skip": _skip,
    "rnn-attention": lambda task, hidden: AttentiveRNN(task.input_size, hidden, task.output_size),
}

__all__ = ["CANDIDATES", "AttentiveRNN", "Maker", "SkipRNN"]
