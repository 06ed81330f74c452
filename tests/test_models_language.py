"""Truncated BPTT: the state goes on, the gradient stops."""

import pytest
import torch
import torch.nn.functional as F

from rnnfast.models import CELLS, LanguageModel, detached, hidden, rows_of


@pytest.fixture(params=CELLS)
def model(request):
    return LanguageModel(11, 4, 6, cell=request.param, num_layers=2).double()


def loss(chunk):
    return F.cross_entropy(chunk.logits.flatten(0, 1), chunk.targets.flatten())


def test_chunks_carry_the_state(model):
    tokens = torch.randint(0, 11, (3, 24))
    chunks = list(model.chunks(tokens, 10))
    assert [chunk.logits.size(1) for chunk in chunks] == [10, 10, 3]
    logits, last = model(tokens[:, :-1])
    torch.testing.assert_close(torch.cat([c.logits for c in chunks], 1), logits, rtol=0, atol=1e-12)
    assert torch.equal(torch.cat([c.targets for c in chunks], 1), tokens[:, 1:])
    torch.testing.assert_close(chunks[-1].state, last, rtol=0, atol=1e-12)


def test_gradients_end_at_the_chunks_beginning(model):
    tokens = torch.cat([torch.randint(0, 5, (3, 8)), torch.randint(5, 11, (3, 9))], 1)
    for chunk in model.chunks(tokens, 8):
        model.zero_grad()
        loss(chunk).backward()
        assert not hidden(chunk.state).requires_grad
    touched = model.embedding.weight.grad.abs().sum(1)
    assert torch.count_nonzero(touched[:5]) == 0
    assert torch.count_nonzero(touched[5:]) > 0
    # What the last chunk's gradient is: that of a run of its own from a state which is a constant.
    first = model(tokens[:, :8])[1]
    expected = torch.autograd.grad(
        F.cross_entropy(model(tokens[:, 8:16], detached(first))[0].flatten(0, 1), tokens[:, 9:].flatten()),
        list(model.parameters()),
    )
    torch.testing.assert_close([p.grad for p in model.parameters()], list(expected), rtol=0, atol=1e-12)


def test_a_chunk_runs_with_the_weights_of_its_time(model):
    chunks = model.chunks(torch.randint(0, 11, (3, 24)), 10)
    next(chunks)
    with torch.no_grad():
        model.readout.weight.zero_()
        model.readout.bias.zero_()
    assert torch.count_nonzero(next(chunks).logits) == 0


def test_training_goes_on_from_a_chunks_state(model):
    tokens = torch.randint(0, 11, (3, 24))
    chunks = list(model.chunks(tokens, 10))
    (resumed, _) = model.chunks(tokens[:, 10:], 10, chunks[0].state)
    torch.testing.assert_close(resumed.logits, chunks[1].logits, rtol=0, atol=0)


def test_states(model):
    _, state = model(torch.randint(0, 11, (3, 5)))
    picked = rows_of(state, torch.tensor([2, 0, 2, 1]))
    assert torch.equal(hidden(picked), hidden(state)[:, [2, 0, 2, 1]])
    assert isinstance(picked, tuple) == isinstance(state, tuple) == (model.rnn.mode == "LSTM")
    if isinstance(state, tuple):
        assert torch.equal(picked[1], state[1][:, [2, 0, 2, 1]])
        assert hidden(state) is state[0]
        assert not detached(state)[1].requires_grad
    assert hidden(state).requires_grad
    assert not hidden(detached(state)).requires_grad
