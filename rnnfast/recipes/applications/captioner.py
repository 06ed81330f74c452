"""The network that writes captions: it looks at an image, then says it word by word."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...models import Attention, SequenceGenerator, decoding
from ...models.attention import Memory
from ...models.backbone import State
from ..vocabulary import PADDING, UNKNOWN, Vocabulary, padded

START, END = "<start>", "<end>"
PLACES = 8  # of a row and of a column of the map at most: where there are more, the map is halved
CHANNELS = 64  # of a place
AROUND = 3  # convolutions of the map itself, so that a place knows of what is beside it: two alike are counted
SUMMARY = 16  # channels of a place in the vector that the recurrence begins with
LEAST = 8  # channels of the first convolution


class Eye(nn.Module):
    """A convolutional network that makes a map of an image: what is to be seen at each place.

    Convolutions of 3 x 3, each normalised over the batch (Ioffe and Szegedy, arXiv:1502.03167); after the
    first some halve the image, and the last ones have each place see what is around it.

    Args:
        channels: of the image; size: pixels of its sides.

    Shapes:
        * images: (B, C, S, S) uint8.
        * result: (B, P, CHANNELS), P places row by row.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        halvings = max(1, math.ceil(math.log2(size / PLACES)))
        widths = [max(LEAST, CHANNELS >> (halvings - i)) for i in range(halvings + 1)]
        strides = [1, *[2] * halvings, *[1] * AROUND]
        pairs = itertools.pairwise([channels, *widths, *[CHANNELS] * AROUND])
        layers: list[nn.Module] = []
        for stride, (before, after) in zip(strides, pairs, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.side = size
        for _ in range(halvings):
            self.side = (self.side + 1) // 2

    def forward(self, images: Tensor) -> Tensor:
        """The map."""
        weight: Any = self.layers[0].weight
        return self.layers(images.to(weight.dtype) / 255).flatten(2).transpose(1, 2)


class Told(NamedTuple):
    """A caption: its words, how probable each was after those before, and how the places were looked at for each,
    (T, P), None without attention. The last of both is that of the end, where the caption came to one."""

    words: list[str]
    probabilities: list[float]
    looks: Tensor | None


class Captioner(nn.Module):
    r"""Looks at an image and writes a sentence (Vinyals et al., arXiv:1411.4555).

    A map of the image (:class:`Eye`), each place with a learned vector of where it is, is made a vector that the
    recurrence begins with. With attention each state also looks at the map, before it is read out (Xu et al.,
    arXiv:1502.03044, "Show, attend and tell", though there what was seen enters the next step:
    see :class:`rnnfast.models.Attention`).

    For training each place also tells by itself which words belong to it, and the image has those of the place
    that is surest (Fang et al., arXiv:1411.4952, "From captions to visual concepts"): without it the map long
    shows nothing that is worth a look, and none of its places is looked at and so taught.

    Args:
        vocabulary: how many tokens there are, V; start, end: those around each caption.
        channels, size: of images.
        embedding_size, hidden_size, cell, dropout, layers: as of :class:`rnnfast.models.SequenceGenerator`.
        dropout: of words given to the recurrence, and of what is read out.
        attention: ``"none"``, or as of :class:`rnnfast.models.Attention`.

    Shapes:
        * images: (B, C, S, S) uint8.
        * tokens: (B, T), the start and the true words.
        * results: logits (B, T, V) of what follows each, and (B, V) of whether a word is in the caption at all.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        start: int,
        end: int,
        channels: int,
        size: int,
        embedding_size: int,
        hidden_size: int,
        cell: str,
        dropout: float,
        attention: str,
        layers: str,
    ) -> None:
        super().__init__()
        self.eye = Eye(channels, size)
        places = self.eye.side**2
        self.where = nn.Parameter(0.1 * torch.randn(places, CHANNELS))
        self.summary = nn.Linear(CHANNELS, SUMMARY)
        self.writer = SequenceGenerator(
            places * SUMMARY,
            hidden_size,
            vocabulary,
            cell=cell,
            embedding_size=embedding_size,
            start=start,
            end=end,
            layers=layers,
        )
        self.concepts = nn.Linear(CHANNELS, vocabulary)
        self.dropout = nn.Dropout(dropout)
        self.attention = None if attention == "none" else Attention(attention, hidden_size, CHANNELS)

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits with teacher forcing, and of words by the places alone."""
        seen = self.eye(images)
        state, memory = self.begin(seen)
        states, _ = self.writer.decoder.states(tokens, state)
        return self.read(states, memory)[0], self.concepts(seen).amax(1)

    def look(self, images: Tensor) -> tuple[State, Memory | None]:
        """What the recurrence begins with, and what may be looked at."""
        return self.begin(self.eye(images))

    def begin(self, seen: Tensor) -> tuple[State, Memory | None]:
        """The same, of a map."""
        seen = seen + self.where
        state = self.writer.initial_state(self.dropout(torch.relu(self.summary(seen)).flatten(1)))
        if self.attention is None:
            return state, None
        return state, self.attention.memory(seen)

    def read(self, states: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V) of states (B, T, H), and the weights (B, T, P) by which they looked at the map."""
        weights = None
        if self.attention is not None:
            states, weights = self.attention(states, memory)
        return self.writer.decoder.readout(self.dropout(states)), weights

    @torch.no_grad()
    def write(self, images: Tensor, longest: int, beam: int) -> list[list[int]]:
        """The tokens of a caption for each image, without start and end.

        Args:
            longest: the most tokens, the end included; beam: as in :func:`rnnfast.models.decoding.beam_search`.
        """
        with decoding.evaluating(self):
            state, memory = self.look(images)

            def step(tokens: Tensor, state: State) -> tuple[Tensor, State]:
                states, last = self.writer.decoder.states(tokens.unsqueeze(1), state)
                # The beginnings that a beam search follows share an image: (B, K, H) look at its map.
                found, _ = self.read(states.view(len(images), -1, states.size(2)), memory)
                logits = found.flatten(0, 1)
                logits[:, [PADDING, UNKNOWN, self.writer.start]] = -torch.inf  # no words
                return logits, last

            first = torch.full((len(images),), self.writer.start, device=images.device)
            logits, state = step(first, state)
            method = "beam" if beam > 1 else "greedy"
            return decoding.generate(
                step, logits, state, max_length=longest, end=self.writer.end, method=method, beam=beam
            )


@torch.no_grad()
def tell(model: Captioner, images: Tensor, vocabulary: Vocabulary, longest: int, beam: int = 1) -> list[Told]:
    """A caption for each image; `longest` and `beam` as of :meth:`Captioner.write`."""
    found = []
    with decoding.evaluating(model):
        for some in images.split(256):
            some = some.to(model.where.device)
            rows = model.write(some, longest, beam)
            tokens, _ = padded([[model.writer.start, *row, model.writer.end] for row in rows])
            tokens = tokens.to(some.device)
            state, memory = model.look(some)
            states, _ = model.writer.decoder.states(tokens[:, :-1], state)
            logits, looks = model.read(states, memory)
            p = logits.float().softmax(2).gather(2, tokens[:, 1:].unsqueeze(2)).squeeze(2).tolist()
            for i, row in enumerate(rows):
                steps = min(len(row) + 1, longest)
                look = None if looks is None else looks[i, :steps].float().cpu()
                found.append(Told(vocabulary.decode(row), p[i][:steps], look))
    return found


__all__ = ["END", "START", "Captioner", "Told", "tell"]
