"""From frames of sound to letters, without being told which frame is which letter: CTC."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models import recurrent_layer, run
from .sound import HOP, MELS, RATE, WINDOW

BLANK = 0
STRIDE = 2  # frames of a step
STEP = STRIDE * HOP / RATE  # seconds
FIRST = (WINDOW / 2 - HOP) / RATE  # when the first step begins: its middle is that of the first frame


class SpeechModel(nn.Module):
    r"""Hears which letter is spoken, every 20 ms.

    A convolution over five frames takes every second place, a recurrence follows, and each of its states is read
    out as letters or blank. A text's probability is that of all paths that become it once repetitions, and then
    blanks, are left out (Graves et al., "Connectionist temporal classification", ICML 2006):

    .. math::
        p(y \mid x) = \sum_{\pi: B(\pi) = y} \prod_t p(\pi_t \mid x)

    Args:
        symbols: letters and blank.
        hidden_size, cell, num_layers, bidirectional, layers: as in :func:`rnnfast.models.recurrent_layer`.
        dropout: of the convolution's features, between layers, and of states before they are read out.

    Shapes:
        * features: (B, T, MELS), zero beyond lengths (B,).
        * results: log-probabilities (B, U, symbols) with U = ceil(T / 2), and lengths of those, (B,).
    """

    def __init__(
        self,
        symbols: int,
        *,
        hidden_size: int,
        cell: str,
        num_layers: int,
        bidirectional: bool,
        dropout: float,
        layers: str,
    ) -> None:
        super().__init__()
        width = hidden_size * (2 if bidirectional else 1)
        self.convolution = nn.Conv1d(MELS, hidden_size, 5, stride=STRIDE, padding=2)
        self.dropout = nn.Dropout(dropout)
        self.rnn = recurrent_layer(
            cell,
            hidden_size,
            hidden_size,
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            layers=layers,
        )
        self.readout = nn.Linear(width, symbols)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and lengths."""
        x = self.convolution(features.transpose(1, 2)).relu().transpose(1, 2)
        lengths = (lengths + STRIDE - 1) // STRIDE
        states, _ = run(self.rnn, self.dropout(x), None, lengths)
        return self.readout(self.dropout(states)).float().log_softmax(2), lengths


def ctc(found: tuple[Tensor, Tensor], symbols: Tensor, counts: Tensor) -> Tensor:
    """-log p of each row's symbols (B, L), of which it has counts (B,), given what the model found: (B,)."""
    log_p, lengths = found
    return F.ctc_loss(log_p.transpose(0, 1), symbols, lengths, counts, blank=BLANK, reduction="none")


def steps_for(text: str) -> int:
    """How many steps a text takes at least: one a letter, and a blank between two that are the same."""
    return len(text) + sum(a == b for a, b in itertools.pairwise(text))


@dataclass(frozen=True)
class Word:
    """A word that was heard, and from when to when, in seconds."""

    text: str
    begin: float
    end: float


def best_path(log_p: Tensor, letters: str) -> list[Word]:
    """The words of the most probable path through log-probabilities (U, symbols).

    The path's repetitions and blanks are left out; a word is there from the first step of its first letter to the
    last of its last. (The most probable path need not be that of the most probable text.)

    Args:
        letters: symbols from 1 on.
    """
    words: list[Word] = []
    open_ = False
    for symbol, steps in itertools.groupby(enumerate(log_p.argmax(1).tolist()), key=lambda pair: pair[1]):
        places = [step for step, _ in steps]
        if symbol == BLANK:
            continue
        letter = letters[symbol - 1]
        begin, end = FIRST + places[0] * STEP, FIRST + (places[-1] + 1) * STEP
        if letter == " ":
            open_ = False
        elif open_:
            words[-1] = Word(words[-1].text + letter, words[-1].begin, end)
        else:
            words.append(Word(letter, begin, end))
            open_ = True
    return words


@torch.no_grad()
def heard(model: Any, batches: Any) -> list[Tensor]:
    """Log-probabilities (U, symbols) of each recording.

    Args:
        batches: of features and lengths.
    """
    place, found = next(model.parameters()).device, []
    for features, lengths in batches:
        log_p, steps = model(features.to(place), lengths.to(place))
        found += [row[:length] for row, length in zip(log_p.cpu(), steps.tolist(), strict=True)]
    return found


__all__ = ["BLANK", "STEP", "SpeechModel", "Word", "best_path", "ctc", "heard", "steps_for"]
