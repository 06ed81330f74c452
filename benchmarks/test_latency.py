"""A single step of a single layer, where the cost of calling an operator is most of the time."""

import pytest
import torch
from torch import nn

import rnnfast

CELLS = [(1, 128), (1, 64), (32, 256)]


def both(kind, H):
    """rnnfast's layer and torch.nn's of the same name and weights."""
    peer = getattr(nn, kind)(H, H)
    ours = getattr(rnnfast, kind)(H, H)
    ours.load_state_dict(peer.state_dict())
    return ours, peer


def cell_id(size):
    return "B{}_H{}".format(*size)


@pytest.mark.parametrize("hx", [False, True], ids=["no_hx", "hx"])
def test_latency_layer(in_turn, hx):
    ours, peer = both("RNN", 128)
    given = (torch.randn(1, 1, 128), torch.randn(1, 1, 128))[: 1 + hx]
    with torch.no_grad():  # around all of it, so that only calls are timed
        in_turn(lambda: ours(*given), {"torch.nn": lambda: peer(*given)})


@pytest.mark.parametrize("size", CELLS, ids=cell_id)
def test_latency_cell(in_turn, size):
    ours, peer = both("RNNCell", size[1])
    x, h = torch.randn(size), torch.randn(size)
    with torch.no_grad():
        in_turn(lambda: ours(x, h), {"torch.nn": lambda: peer(x, h)})


@pytest.mark.parametrize("size", CELLS, ids=cell_id)
def test_latency_cell_training(in_turn, size):
    ours, peer = both("RNNCell", size[1])
    x, h = torch.randn(size, requires_grad=True), torch.randn(size, requires_grad=True)
    dy = torch.randn(size)

    def train(cell):
        cell(x, h).backward(dy)
        x.grad = h.grad = None
        cell.zero_grad(set_to_none=True)

    in_turn(lambda: train(ours), {"torch.nn": lambda: train(peer)})
