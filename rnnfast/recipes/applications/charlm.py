"""A language model of characters."""

from __future__ import annotations

from dataclasses import dataclass

from .language import Language, PredictLanguage


@dataclass(frozen=True)
class PredictCharLM(PredictLanguage):
    """Continues a text, character by character."""

    application = "charlm"
    examples = ('"ROMEO:"', '"ROMEO:" --length 1000 --temperature 0.6 --seed 3')

    split = staticmethod(list)


@dataclass(frozen=True)
class CharLM(Language):
    """Learns to predict the next character of a text, and writes more of it.

    (Graves, "Generating sequences with recurrent neural networks", arXiv:1308.0850.)
    """

    prediction = PredictCharLM
    examples = ("--minutes 10", "--text book.txt --cell lstm --num-layers 2", "--layers torch --epochs 1")
    name = "charlm"


__all__ = ["CharLM", "PredictCharLM"]
