"""What is measured: kinds of layer, shapes, and a layer of each library with the same weights and input."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import rnnfast

KINDS = ["RNN", "LSTM", "GRU"]
CELLS = {"RNN": "elman_tanh", "LSTM": "lstm", "GRU": "gru"}  # as rnnfast.plan names them
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
class Row:
    """A layer with options, or with an input of another width than its own."""

    id: str
    T: int
    B: int
    H: int
    I: int | None = None  # noqa: E741
    options: dict[str, Any] = field(default_factory=dict)

    def pair(self, kind: str) -> Pair:
        return Pair.of(kind, self.T, self.B, self.H, self.I, **self.options)


MORE_ROWS = [
    Row("T1_B32_H256", 1, 32, 256),
    Row("T1_B64_H512", 1, 64, 512),
    Row("T8_B32_H512", 8, 32, 512),
    Row("T50_B32_H128_2_layers", 50, 32, 128, options={"num_layers": 2}),
    Row("T50_B32_H128_bidirectional", 50, 32, 128, options={"bidirectional": True}),
    Row("T100_B1_H256_bidirectional", 100, 1, 256, options={"bidirectional": True}),
    Row("T50_B32_H128_batch_first", 50, 32, 128, options={"batch_first": True}),
    Row("T100_B32_H128_I1", 100, 32, 128, 1),
    Row("T50_B32_H128_I512", 50, 32, 128, 512),
    Row("rows_of_images_T28_B128_H128_I28", 28, 128, 128, 28),
    Row("names_by_character_T9_B1_H128_I57", 9, 1, 128, 57),
    Row("words_T35_B20_H200", 35, 20, 200),
    Row("time_series_T12_B64_H4_I1", 12, 64, 4, 1),
]


@dataclass(frozen=True)
class Pair:
    """rnnfast's layer and its peer in torch.nn, with equal weights, and an input for both."""

    ours: nn.Module
    peer: nn.Module
    x: Tensor
    dy: Tensor

    @classmethod
    def of(cls, kind: str, T: int, B: int, H: int, I: int | None = None, **options: Any) -> Pair:  # noqa: E741
        """options: of the layer, among them device and dtype."""
        I = H if I is None else I  # noqa: E741
        peer = getattr(nn, kind)(I, H, **options)
        ours = getattr(rnnfast, kind)(I, H, **options)
        ours.load_state_dict(peer.state_dict())
        where = {name: options[name] for name in ("device", "dtype") if name in options}
        x = torch.randn(B, T, I, **where) if options.get("batch_first") else torch.randn(T, B, I, **where)
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


def inference(layer: nn.Module, pair: Pair) -> None:
    with torch.inference_mode():
        layer(pair.x)


def forward_grad(layer: nn.Module, pair: Pair) -> None:
    """Forward in grad mode, which keeps what a backward would need; none follows."""
    layer(pair.x.detach().requires_grad_())


def training(layer: Callable[[Tensor], Any], pair: Pair, modules: Iterable[nn.Module] = ()) -> None:
    """Forward and backward, with gradients for the input and all weights.

    layer: gives output and what else; modules: those within it, if it is not itself one.
    """
    x = pair.x.detach().requires_grad_()
    output, _ = layer(x)
    output.backward(pair.dy)
    for module in modules or [layer]:
        module.zero_grad(set_to_none=True)
