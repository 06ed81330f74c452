"""A language model of words."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..._program import setting
from .language import Language, PredictLanguage

# Joined again, words are the text: a space belongs to the word after it.
WORDS = re.compile(r" ?[^\W\d_]+| ?\d+| ?[^\w\s]|_|\s")


@dataclass(frozen=True)
class PredictWordLM(PredictLanguage):
    """Continues a text, word by word."""

    application = "wordlm"
    examples = ('"The king"', '"The king" --length 100 --temperature 0.6 --top-k 50')

    split = staticmethod(WORDS.findall)


@dataclass(frozen=True)
class WordLM(Language):
    """Learns to predict the next word of a text, and writes more of it.

    (Mikolov et al., "Recurrent neural network based language model", Interspeech 2010.) Words that occur once
    are one token in training. Where one occurs in the held-out text its characters are paid for by their
    frequencies, so that the nats per character can be compared with a model's of characters.
    """

    prediction = PredictWordLM
    examples = ("--minutes 10", "--text book.txt --cell lstm", "--hide 0.3 --epochs 10")
    name = "wordlm"
    least = 2

    hidden_size: int = setting(256, "units", least=1)
    embedding_size: int = setting(128, "features of a token", least=1)
    hide: float = setting(0.2, "share of tokens hidden in training", least=0, most=1)
    epochs: int = setting(5, "times that the text is gone through", least=1)
    length: int = setting(50, "steps through which gradients flow", least=1)


__all__ = ["WORDS", "PredictWordLM", "WordLM"]
