"""Dates as people write them, in many languages, and as ISO 8601 has them."""

from __future__ import annotations

import datetime
import random
from typing import Any

from ..._program import UserError, needs
from ..vocabulary import Vocabulary

STYLES = ("short", "medium", "long", "full")
# A hundred years, so that the two digits of a short form tell which; POSIX reads %y as one of these.
FIRST, LAST = datetime.date(1969, 1, 1), datetime.date(2068, 12, 31)
# The text's example is never trained on.
EXAMPLE = datetime.date(2023, 1, 15)
START, END = "<start>", "<end>"


class Calendar:
    """Writes dates in the forms of Unicode's CLDR, by Babel.

    A source is the locale, one token, and then the characters, since 3/4/24 depends on the country.

    Args:
        locales: such as ``"en_US"``.
    """

    def __init__(self, locales: tuple[str, ...]) -> None:
        babel: Any = needs("babel", "recipes")
        self._format = needs("babel.dates", "recipes").format_date
        self.locales = {}
        for name in locales:
            try:
                self.locales[name] = babel.Locale.parse(name)
            except (ValueError, babel.UnknownLocaleError):
                raise UserError(f"--locales: got {name}, expected one of Babel's, such as en_US or fr") from None
        self.source = Vocabulary([*(f"<{name}>" for name in self.locales), *self._characters()])
        self.target = Vocabulary([START, END, *"-0123456789"])

    def _characters(self) -> list[str]:
        """All that a date may be written with: those of every month, weekday and digit."""
        year = [datetime.date(2000, 1, 1) + datetime.timedelta(days) for days in range(366)]
        days = [*year, *(datetime.date(FIRST.year + n, 1, 1) for n in range(100))]
        written = {
            c for day in days for name in self.locales for style in STYLES for c in self.write(day, name, style)
        }
        return sorted(written)

    def write(self, day: datetime.date, locale: str, style: str) -> str:
        """A day as people write it, such as January 15, 2023."""
        return self._format(day, style, locale=self.locales[locale])

    def encode(self, text: str, locale: str) -> list[int]:
        """A written date as a model's source."""
        return self.source.encode([f"<{locale}>", *text])

    def encode_iso(self, day: datetime.date) -> list[int]:
        """A day as a model's target, from the start token to the end token."""
        return self.target.encode([START, *day.isoformat(), END])

    def decode_iso(self, numbers: list[int]) -> str:
        """What a model wrote."""
        return "".join(self.target.decode(numbers))


def split(seed: int, held_out: float = 0.1) -> tuple[list[datetime.date], list[datetime.date]]:
    """All days of the hundred years, in random order: those to train on, and those held out."""
    days = [
        FIRST + datetime.timedelta(n)
        for n in range((LAST - FIRST).days + 1)
        if FIRST + datetime.timedelta(n) != EXAMPLE
    ]
    random.Random(seed).shuffle(days)
    count = int(held_out * len(days))
    return days[count:], [EXAMPLE, *days[:count]]


__all__ = ["END", "EXAMPLE", "START", "STYLES", "Calendar", "split"]
