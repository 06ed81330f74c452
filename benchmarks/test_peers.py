"""The layers beside those of other libraries, with the same weights and input.

The other libraries are timed apart (see in_turn). In turn, the threads of one, which spin for a while after a
call, slow the others: after ONNX Runtime an LSTM of torch.nn's took 12 ms in place of 5, after torch one of JAX's
18 in place of 13.
"""

import peers
import pytest
from shapes import KINDS, SHAPES, Pair, forward, shape_id, training

FORWARD = {peers.ORT: peers.onnxruntime_forward, peers.JAX: peers.jax_forward}
TRAINING = {peers.JAX: peers.jax_training}

all_kinds = pytest.mark.parametrize("kind", KINDS)
all_shapes = pytest.mark.parametrize("shape", SHAPES, ids=shape_id)


@pytest.fixture
def installed(versions, notes):
    """installed(makers): those of the libraries that are there, with a note on those that are not."""

    def choose(makers):
        for name in makers.keys() - versions.keys():
            note = f"{name}: left out, not installed (pip install 'rnnfast[peers]')"
            if note not in notes:
                notes.append(note)
        found = {name: make for name, make in makers.items() if name in versions}
        if not found:
            pytest.skip(f"not installed: {', '.join(makers)}")
        return found

    return choose


@all_shapes
@all_kinds
def test_peers_forward(in_turn, installed, kind, shape):
    makers, pair = installed(FORWARD), Pair.of(kind, *shape)
    apart = {name: make(pair.peer, pair.x) for name, make in makers.items()}
    in_turn(*pair.calls(forward), apart=apart)


@all_shapes
@all_kinds
def test_peers_training(in_turn, installed, kind, shape):
    makers, pair = installed(TRAINING), Pair.of(kind, *shape)
    apart = {name: make(pair.peer, pair.x, pair.dy) for name, make in makers.items()}
    in_turn(*pair.calls(training), apart=apart)
