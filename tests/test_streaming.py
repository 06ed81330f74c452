"""StreamingFilter: blocks of any lengths give what the whole signal gives."""

import random

import pytest
import torch

from rnnfast.models import CELLS, StreamingFilter


def cut(signal, generator):
    """Blocks of random lengths, some of one sample."""
    lengths, left = [], signal.size(1)
    while left:
        lengths.append(min(left, generator.choice((1, 1, 2, 5, 17, 64, 100, 333))))
        left -= lengths[-1]
    return signal.split(lengths, 1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_blocks_give_the_same_bits_as_the_whole(cell, threads):
    torch.set_num_threads(threads)
    numbers = random.Random(torch.initial_seed())
    for rows, hidden_size in ((1, 24), (1, 1), (2, 33), (5, 8), (1, 64)):
        model, signal = StreamingFilter(hidden_size, cell=cell), torch.randn(rows, 1200)
        whole, last = model.step(signal)
        for blocks in (cut(signal, numbers), signal[:, :200].split(1, 1), signal.split(64, 1), signal.split(3, 1)):
            streamed = torch.cat(list(model.stream(blocks)), 1)
            assert torch.equal(streamed, whole[:, : streamed.size(1)]), (
                rows,
                hidden_size,
                [*map(len, blocks)][:5],
            )
        half, state = model.step(signal[:, :601])
        rest, state = model.step(signal[:, 601:], state)
        assert torch.equal(torch.cat((half, rest), 1), whole)
        for ours, theirs in zip(*(s if isinstance(s, tuple) else (s,) for s in (state, last)), strict=True):
            assert torch.equal(ours, theirs)
        (without,) = model.stream([signal[:, 601:]])
        assert not torch.equal(without, rest)  # the state matters


def test_torchs_layers_stream_too():
    signal = torch.randn(2, 300)
    torch.manual_seed(1)
    ours = StreamingFilter(16, cell="gru")
    torch.manual_seed(1)
    theirs = StreamingFilter(16, cell="gru", layers="torch")
    streamed = torch.cat(list(theirs.stream(signal.split(7, 1))), 1)
    torch.testing.assert_close(streamed, ours.step(signal)[0], rtol=0, atol=1e-5)


def test_it_is_what_its_docstring_says():
    model, signal = StreamingFilter(16), torch.randn(3, 50)
    output, (h, c) = model(signal)
    states, (h_n, c_n) = model.rnn(signal.unsqueeze(-1))
    torch.testing.assert_close(output, signal + model.readout(states).squeeze(-1))
    assert torch.equal(h, h_n)
    assert torch.equal(c, c_n)
    output.square().mean().backward()
    assert all(p.grad.any() for p in model.parameters())
    assert not model.step(signal)[0].requires_grad


@pytest.mark.parametrize("shape", [(5,), (1, 0), (1, 5, 1)])
def test_samples_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"samples: got shape .*, expected \(B, T\) with T at least 1"):
        StreamingFilter(4).step(torch.zeros(shape))
