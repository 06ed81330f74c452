"""Forward: without gradients, and in grad mode without a backward."""

import os
import warnings

import pytest
import torch
from shapes import KINDS, MORE_ROWS, SHAPES, Pair, forward, forward_grad, inference, shape_id

COMPILE = os.environ.get("RNNFAST_BENCH_COMPILE") == "1"
# torch.compile unrolls the loop over time: 50 steps take most of a minute.
LONGEST_COMPILED = 100


def compiled(pair, notes):
    """{"nn compiled": call}, or nothing where it does not compile, with a note that says why."""
    name = f"nn {type(pair.peer).__name__} compiled, input {tuple(pair.x.shape)}"
    if len(pair.x) > LONGEST_COMPILED:
        notes.append(f"{name}: left out, more than {LONGEST_COMPILED} steps")
        return {}
    # Each shape starts afresh: past 8 recompilations of one function Dynamo runs it uncompiled.
    torch._dynamo.reset()
    layer = torch.compile(pair.peer)

    def call():
        # By default Dynamo steps around torch.nn's recurrent layers and compiles nothing.
        with torch._dynamo.config.patch(allow_rnn=True):
            forward(layer, pair)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except Exception as error:
        notes.append(f"{name}: {type(error).__name__}: {str(error).strip().splitlines()[0]}")
        return {}
    return {"nn compiled": lambda: forward(layer, pair)}


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
@pytest.mark.parametrize("kind", KINDS)
def test_forward(in_turn, notes, kind, shape):
    pair = Pair.of(kind, *shape)
    ours, peers = pair.calls(forward)
    peers["nn inference_mode"] = lambda: inference(pair.peer, pair)
    if COMPILE:
        peers |= compiled(pair, notes)
    in_turn(ours, peers)


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
@pytest.mark.parametrize("kind", KINDS)
def test_forward_grad(in_turn, kind, shape):
    in_turn(*Pair.of(kind, *shape).calls(forward_grad))


@pytest.mark.parametrize("row", MORE_ROWS, ids=lambda row: row.id)
@pytest.mark.parametrize("kind", KINDS)
def test_forward_more(in_turn, kind, row):
    in_turn(*row.pair(kind).calls(forward))
