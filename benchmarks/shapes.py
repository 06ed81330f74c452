"""What is measured: the shapes, and a layer of each library with the same weights and input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import rnnfast

# (T steps, B rows of the batch, H units); the input is as wide as the layer.
SHAPES = [
    (1, 1, 128),
    (100, 1, 64),
    (100, 1, 256),
    (100, 1, 1024),
    (50, 32, 32),
    (100, 32, 128),
    (100, 64, 256),
    (100, 64, 512),
    (50, 128, 1024),
    (1000, 8, 128),
    (512, 16, 768),
]


def shape_id(shape: tuple[int, int, int]) -> str:
    return "T{}_B{}_H{}".format(*shape)


@dataclass(frozen=True)
class Pair:
    """rnnfast's layer and its peer in torch.nn, with equal weights, and an input for both."""

    ours: nn.Module
    peer: nn.Module
    x: Tensor
    dy: Tensor

    @classmethod
    def of(cls, T: int, B: int, H: int, **options: Any) -> Pair:
        peer = nn.RNN(H, H, **options)
        ours = rnnfast.RNN(H, H, **options)
        ours.load_state_dict(peer.state_dict())
        x = torch.randn(T, B, H)
        with torch.no_grad():
            dy = torch.randn_like(peer(x)[0])
        return cls(ours, peer, x, dy)

    def calls(
        self, function: Callable[[nn.Module, Pair], None]
    ) -> tuple[Callable[[], None], dict[str, Callable[[], None]]]:
        """The same work with our layer, and with each peer's by name."""
        return (lambda: function(self.ours, self)), {"torch.nn": lambda: function(self.peer, self)}


def forward(layer: nn.Module, pair: Pair) -> None:
    with torch.no_grad():
        layer(pair.x)


def training(layer: nn.Module, pair: Pair) -> None:
    """Forward and backward, with gradients for the input and all weights."""
    x = pair.x.detach().requires_grad_()
    output, _ = layer(x)
    output.backward(pair.dy)
    layer.zero_grad(set_to_none=True)
