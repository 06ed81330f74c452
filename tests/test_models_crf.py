"""A tagger with a CRF, against the sum over all sequences of tags."""

import itertools
import sys

import pytest
import torch

from rnnfast._program import UserError
from rnnfast.models import Tagger

LENGTHS = torch.tensor([4, 1, 3])


def scores_of_all(model, logits):
    """Every sequence of tags with its score, as the formula has it."""
    crf, found = model.crf, {}
    for tags in itertools.product(range(3), repeat=len(logits)):
        score = crf.start_transitions[tags[0]] + crf.end_transitions[tags[-1]]
        score = score + sum(logits[t, tag] for t, tag in enumerate(tags))
        found[tags] = score + sum(crf.transitions[a, b] for a, b in itertools.pairwise(tags))
    return found


@pytest.fixture
def model():
    pytest.importorskip("torchcrf", reason="pytorch-crf is not installed")
    model = Tagger(9, 4, 6, 3, cell="gru", crf=True).double()
    for parameter in model.crf.parameters():
        torch.nn.init.normal_(parameter)
    return model


def test_loss_and_best_tags(model):
    tokens, tags = torch.randint(0, 9, (3, 4)), torch.randint(0, 3, (3, 4))
    tags = torch.where(torch.arange(4) < LENGTHS.unsqueeze(1), tags, -100)
    decoded, losses = model.decode(tokens, LENGTHS), []
    for i, n in enumerate(LENGTHS.tolist()):
        scores = scores_of_all(model, model(tokens[i : i + 1, :n])[0])
        losses.append(torch.stack(list(scores.values())).logsumexp(0) - scores[tuple(tags[i, :n].tolist())])
        assert tuple(decoded[i]) == max(scores, key=lambda t: scores[t].item())
    loss = model.loss(tokens, tags, LENGTHS)
    torch.testing.assert_close(loss, sum(losses) / LENGTHS.sum(), rtol=0, atol=1e-12)
    loss.backward()
    assert model.crf.transitions.grad.abs().max() > 0


def test_without_lengths_all_steps_count(model):
    tokens, tags = torch.randint(0, 9, (2, 4)), torch.randint(0, 3, (2, 4))
    full = torch.tensor([4, 4])
    assert torch.equal(model.loss(tokens, tags), model.loss(tokens, tags, full))
    assert model.decode(tokens) == model.decode(tokens, full)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcrf", None)
    with pytest.raises(UserError, match=r"^needs torchcrf: pip install 'rnnfast\[crf\]'$"):
        Tagger(9, 4, 6, 3, crf=True)
    assert Tagger(9, 4, 6, 3).crf is None
