"""The recurrent layers inside the models, and what can be done with their states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .. import modules
from ..modules.base import RecurrentLayer
from ..sequences import checked_lengths
from ._checks import at_least, one_of

CELLS = ("rnn", "lstm", "gru")
_KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "rnn": ("RNN", {}),
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
}
_PACKAGES: dict[str, Any] = {"rnnfast": modules, "torch": nn}

# Of a stack of layers: h, of an LSTM (h, c), each (D L, B, H).
State: TypeAlias = Tensor | tuple[Tensor, Tensor]


def recurrent_layer(
    cell: str,
    input_size: int,
    hidden_size: int,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    layers: str = "rnnfast",
) -> nn.Module:
    """An :class:`rnnfast.RNN`, :class:`rnnfast.LSTM` or :class:`rnnfast.GRU`, or torch.nn's, with `batch_first`.

    Args:
        cell: ``"rnn"``, ``"lstm"``, ``"gru"``, or ``"rnn_relu"``: an Elman RNN with relu in place of tanh.
        input_size: features of the input, I.
        hidden_size: units, H.
        num_layers: recurrences stacked on one another, L.
        bidirectional: whether a second recurrence runs from the end; D is then 2, otherwise 1.
        dropout: probability of dropping a value between layers, in training; of no effect where L is 1.
        layers: whose, ``"rnnfast"`` or ``"torch"``. For a seed both have the same initial values.

    Shapes (of the layer that is returned):
        * input: (B, T, I), or a :class:`~torch.nn.utils.rnn.PackedSequence`.
        * output: (B, T, D H).
        * state, initial and final: (D L, B, H), of an LSTM two of them.

    Raises:
        ValueError: for an unknown `cell` or `layers`, or a size below 1.

    Example:
        >>> layer = recurrent_layer("gru", 10, 32, bidirectional=True)
        >>> output, h_n = layer(torch.randn(4, 20, 10))
        >>> output.shape, h_n.shape
        (torch.Size([4, 20, 64]), torch.Size([2, 4, 32]))
    """
    one_of(_KINDS, cell=cell)
    one_of(_PACKAGES, layers=layers)
    at_least(1, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout: got {dropout}, expected 0 to 1")
    name, options = _KINDS[cell]
    return getattr(_PACKAGES[layers], name)(
        input_size,
        hidden_size,
        num_layers,
        batch_first=True,
        bidirectional=bidirectional,
        dropout=dropout if num_layers > 1 else 0.0,  # torch warns of dropout that has no place
        **options,
    )


def run(layer: Any, x: Tensor, hx: State | None = None, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
    """Runs a `batch_first` layer over rows of their own lengths; padding has no influence on any result.

    Args:
        layer: from :func:`recurrent_layer`.
        x: (B, T, I).
        hx: initial state, zero if not given.
        lengths: (B,) int64, valid steps of each row, 1 to T; None if all are.

    Returns:
        The output (B, T, D H), zero beyond each row's length, and the state after each row's own last step.

    Raises:
        ValueError: for lengths that do not fit.

    Example:
        >>> layer = recurrent_layer("rnn", 3, 8)
        >>> output, h_n = run(layer, torch.randn(2, 5, 3), lengths=torch.tensor([5, 2]))
        >>> bool((h_n[0, 1] == output[1, 1]).all()), output[1, 2:].abs().max().item()
        (True, 0.0)
    """
    if lengths is None:
        return layer(x, hx)
    B, T = x.shape[:2]
    lengths = checked_lengths(lengths, B, T, least=1)
    if int(lengths.min()) == T:
        return layer(x, hx)
    if isinstance(layer, RecurrentLayer):
        return layer(x, hx, lengths=lengths)
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    output, state = layer(packed, hx)
    return pad_packed_sequence(output, batch_first=True, total_length=T)[0], state


def valid(lengths: Tensor, steps: int) -> Tensor:
    """Which of the steps each row has: (B, T) bool."""
    return torch.arange(steps, device=lengths.device) < lengths.unsqueeze(1)


def hidden(state: State) -> Tensor:
    """h, which of an LSTM is the first of its pair."""
    return state[0] if isinstance(state, tuple) else state


def each(change: Callable[..., Tensor], *states: State) -> State:
    """What `change` makes of the states' h, and where they are pairs likewise of their c."""
    first = states[0]
    if isinstance(first, tuple):
        return change(*[state[0] for state in states]), change(*[state[1] for state in states])
    return change(*states)


def detached(state: State) -> State:
    """The same values, cut off from the graph that made them."""
    return each(Tensor.detach, state)


def rows_of(state: State, indices: Tensor) -> State:
    """The state of chosen rows of the batch, in any order and number."""
    return each(lambda s: s.index_select(1, indices), state)


def zero_state(layer: nn.RNNBase, batch: int) -> State:
    """The state that a layer begins with where none is given."""
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    zeros = layer.weight_hh_l0.new_zeros(rows, batch, layer.hidden_size)
    return (zeros, zeros) if layer.mode == "LSTM" else zeros


def last_hidden(state: State, *, bidirectional: bool = False) -> Tensor:
    """The last layer's h after its last step, (B, D H): of the direction from the end, after the first step."""
    directions = 2 if bidirectional else 1
    return hidden(state)[-directions:].transpose(0, 1).flatten(1)


__all__ = [
    "CELLS",
    "State",
    "detached",
    "each",
    "hidden",
    "last_hidden",
    "recurrent_layer",
    "rows_of",
    "run",
    "valid",
    "zero_state",
]
