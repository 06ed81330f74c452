"""Initial values for recurrent layers: functions that change a layer in place and return it.

They take rnnfast's layers and torch.nn's, with any number of layers and directions. What they do not name stays as
it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

Layer = TypeVar("Layer", bound=nn.RNNBase)

_KINDS = {"RNN_TANH": "RNN", "RNN_RELU": "RNN", "LSTM": "LSTM", "GRU": "GRU"}
_GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
_KEPT_BY = {"LSTM": 1, "GRU": 1}  # i f g o and r z n: which gate says how much of the state stays


def orthogonal_(layer: Layer, gain: float = 1.0) -> Layer:
    r"""Makes the recurrent matrix of every gate `gain` times a random orthogonal one.

    Its singular values are then all `gain`, so that a product of many keeps norms where `gain` is 1 (Saxe,
    McClelland and Ganguli, arXiv:1312.6120). A projected LSTM's, which are not square, get orthonormal columns.

    Args:
        layer: RNN, LSTM or GRU.
        gain: the singular values.

    Raises:
        TypeError: for another kind of module.

    Example:
        >>> layer = orthogonal_(rnnfast.RNN(3, 8))
        >>> torch.allclose(layer.weight_hh_l0 @ layer.weight_hh_l0.T, torch.eye(8), atol=1e-5)
        True
    """
    for gate in _recurrent_matrices(layer):
        nn.init.orthogonal_(gate, gain)
    return layer


def gaussian_(layer: Layer, spectral_scale: float = 1.0) -> Layer:
    r"""Draws the recurrent matrix of every gate from a Gaussian whose spectral radius is about `spectral_scale`.

    .. math::
        W_{hh} \sim N(0, (spectral\_scale / \sqrt H)^2)

    The eigenvalues then fill a disk of that radius as H grows (Girko's circular law; Sompolinsky, Crisanti and
    Sommers, "Chaos in random neural networks", Physical Review Letters 61, 1988).

    Args:
        layer: RNN, LSTM or GRU.
        spectral_scale: the radius, 0 or more.

    Raises:
        TypeError: for another kind of module.
        ValueError: for a negative scale.

    Example:
        >>> layer = gaussian_(rnnfast.RNN(3, 200), 0.5)
        >>> bool(torch.linalg.eigvals(layer.weight_hh_l0.detach()).abs().max() < 0.7)
        True
    """
    matrices = list(_recurrent_matrices(layer))
    if not spectral_scale >= 0:
        raise ValueError(f"spectral_scale: got {spectral_scale}, expected at least 0")
    for gate in matrices:
        nn.init.normal_(gate, 0.0, spectral_scale / math.sqrt(gate.size(1)))
    return layer


def identity_(layer: Layer, scale: float = 1.0) -> Layer:
    r"""Makes the recurrent matrix `scale` times the identity, and all biases zero: the IRNN.

    A relu layer then holds what it has until input changes it (Le, Jaitly and Hinton, arXiv:1504.00941).

    Args:
        layer: RNN, in the paper with ``nonlinearity="relu"``.
        scale: below 1 the state decays.

    Raises:
        TypeError: for another kind of module.

    Example:
        >>> layer = identity_(rnnfast.RNN(3, 8, nonlinearity="relu"))
        >>> bool((layer.weight_hh_l0 == torch.eye(8)).all())
        True
    """
    for matrix in _recurrent_matrices(layer, "RNN"):
        with torch.no_grad():
            nn.init.eye_(matrix).mul_(scale)
    for name, parameter in layer.named_parameters():
        if name.startswith("bias"):
            nn.init.zeros_(parameter)
    return layer


def forget_bias_(layer: Layer, value: float = 1.0) -> Layer:
    r"""Makes the two biases of an LSTM's forget gates sum to `value`.

    At 1 the cells begin by keeping most of what they hold (Gers, Schmidhuber and Cummins, "Learning to forget",
    Neural Computation 12, 2000; Jozefowicz, Zaremba and Sutskever, ICML 2015).

    Args:
        layer: LSTM, with biases.
        value: of b_ih + b_hh; b_hh becomes 0.

    Raises:
        TypeError: for another kind of module.
        ValueError: for a layer without biases.

    Example:
        >>> layer = forget_bias_(rnnfast.LSTM(3, 8), 1.0)
        >>> (layer.bias_ih_l0 + layer.bias_hh_l0)[8:16].tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    for b_ih, b_hh in _biases(layer, "LSTM"):
        _set(b_ih, b_hh, _KEPT_BY["LSTM"], torch.full_like(b_ih[0], value))
    return layer


def chrono_(layer: Layer, longest: int) -> Layer:
    r"""Draws the biases of the gates that keep the state so that units remember for 2 to `longest` steps.

    .. math::
        b_f \sim \log U[1, longest - 1], \quad b_i = -b_f \qquad \text{(LSTM)}; \qquad
        b_z \sim \log U[1, longest - 1] \qquad \text{(GRU)}

    A unit whose gate is :math:`\sigma(b)` forgets within about :math:`1 + e^b` steps (Tallec and Ollivier, "Can
    recurrent neural networks warp time?", arXiv:1804.11188). The paper's GRU updates where torch's keeps, hence
    the sign of b_z here.

    Args:
        layer: LSTM or GRU, with biases.
        longest: the longest dependency expected, in steps, 2 or more.

    Raises:
        TypeError: for another kind of module.
        ValueError: for a layer without biases, or `longest` below 2.

    Example:
        >>> layer = chrono_(rnnfast.GRU(3, 8), 100)
        >>> b_z = (layer.bias_ih_l0 + layer.bias_hh_l0)[8:16]
        >>> bool((b_z >= 0).all() and (b_z <= math.log(99)).all())
        True
    """
    biases = list(_biases(layer, "LSTM", "GRU"))
    if not longest >= 2:
        raise ValueError(f"longest: got {longest}, expected at least 2")
    kind = _KINDS[layer.mode]
    for b_ih, b_hh in biases:
        drawn = torch.empty_like(b_ih[0]).uniform_(1, longest - 1).log_()
        _set(b_ih, b_hh, _KEPT_BY[kind], drawn)
        if kind == "LSTM":
            _set(b_ih, b_hh, 0, -drawn)
    return layer


def _check(layer: nn.Module, kinds: tuple[str, ...]) -> None:
    kind = _KINDS.get(layer.mode) if isinstance(layer, nn.RNNBase) else None
    if kind not in kinds:
        raise TypeError(f"layer: got {type(layer).__name__}, expected {' or '.join(kinds)}")


def _recurrent_matrices(layer: nn.RNNBase, *kinds: str) -> Iterator[Tensor]:
    """The recurrent matrix (H, H) of each gate, direction and layer; a projected LSTM's is (H, P)."""
    _check(layer, kinds or tuple(_GATES))
    for name, parameter in layer.named_parameters():
        if name.startswith("weight_hh"):
            yield from parameter.detach().chunk(_GATES[_KINDS[layer.mode]])


def _biases(layer: nn.RNNBase, *kinds: str) -> Iterator[tuple[Tensor, Tensor]]:
    """b_ih and b_hh of each direction and layer, each (gates, H)."""
    _check(layer, kinds)
    if not layer.bias:
        raise ValueError("layer: got bias=False, expected a layer with biases")
    for name, parameter in layer.named_parameters():
        if name.startswith("bias_ih"):
            b_hh = layer.get_parameter(name.replace("bias_ih", "bias_hh"))
            yield (
                parameter.detach().view(-1, layer.hidden_size),
                b_hh.detach().view(-1, layer.hidden_size),
            )


def _set(b_ih: Tensor, b_hh: Tensor, gate: int, value: Tensor) -> None:
    """Gives one gate's biases, which count as their sum, a value."""
    b_ih[gate], b_hh[gate] = value, 0


__all__ = ["chrono_", "forget_bias_", "gaussian_", "identity_", "orthogonal_"]
