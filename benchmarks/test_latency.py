"""A single step of a single layer, where the cost of calling an operator is most of the time."""

import pytest
import torch
from shapes import KINDS
from torch import nn

import rnnfast

CELLS = [f"{kind}Cell" for kind in KINDS]
SIZES = [(1, 128), (1, 64), (32, 256)]


def both(kind, H):
    """rnnfast's layer and torch.nn's of the same name and weights."""
    peer = getattr(nn, kind)(H, H)
    ours = getattr(rnnfast, kind)(H, H)
    ours.load_state_dict(peer.state_dict())
    return ours, peer


def random_state(kind, *shape):
    """h, of an LSTM (h, c)."""
    h, c = torch.randn(2, *shape)
    return (h, c) if "LSTM" in kind else h


def size_id(size):
    return "B{}_H{}".format(*size)


@pytest.mark.parametrize("hx", [False, True], ids=["no_hx", "hx"])
@pytest.mark.parametrize("kind", KINDS)
def test_latency_layer(in_turn, kind, hx):
    ours, peer = both(kind, 128)
    given = (torch.randn(1, 1, 128), random_state(kind, 1, 1, 128))[: 1 + hx]
    with torch.no_grad():  # around all of it, so that only calls are timed
        in_turn(lambda: ours(*given), {"torch.nn": lambda: peer(*given)})


@pytest.mark.parametrize("size", SIZES, ids=size_id)
@pytest.mark.parametrize("kind", CELLS)
def test_latency_cell(in_turn, kind, size):
    ours, peer = both(kind, size[1])
    x, hx = torch.randn(size), random_state(kind, *size)
    with torch.no_grad():
        in_turn(lambda: ours(x, hx), {"torch.nn": lambda: peer(x, hx)})


@pytest.mark.parametrize("size", SIZES, ids=size_id)
@pytest.mark.parametrize("kind", CELLS)
def test_latency_cell_training(in_turn, kind, size):
    ours, peer = both(kind, size[1])
    x, h, c = (torch.randn(size, requires_grad=True) for _ in range(3))
    hx, dy = (h, c) if "LSTM" in kind else h, torch.randn(size)

    def train(cell):
        result = cell(x, hx)
        (result[0] if "LSTM" in kind else result).backward(dy)
        x.grad = h.grad = c.grad = None
        cell.zero_grad(set_to_none=True)

    in_turn(lambda: train(ours), {"torch.nn": lambda: train(peer)})
