"""Scenes of handwritten digits, and the sentences that tell what is where in them."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._program import needs

SIDE = 32  # pixels
GRID = 3  # cells in a row and in a column
CELL, DIGIT = 10, 8  # pixels of their sides
LARGEST = 16  # value of a pixel of scikit-learn's digits
FEWEST, MOST = 2, 4  # digits of a scene
COPIES = 8  # that a digit's image to train on also has
TURN, STRETCH, SHEAR = math.radians(10), 0.12, 0.15  # of copies, at most
REPEATED = 0.1  # how probable it is that a digit is the one before it again

NOUNS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLURALS = ("zeros", "ones", "twos", "threes", "fours", "fives", "sixes", "sevens", "eights", "nines")
COLUMNS = ("on the left", "in the middle", "on the right")

# Two different digits, the smaller first.
Pair: TypeAlias = tuple[int, int]
Part: TypeAlias = dict[int, Tensor]  # the images of each digit, (N, 8, 8) uint8


@dataclass(frozen=True)
class Scene:
    """Digits in the cells of a grid: (row, column, digit) of each, in the order in which one reads."""

    digits: tuple[tuple[int, int, int], ...]

    def caption(self) -> str:
        """What is where, row by row from the top and from left to right.

        Equal neighbours of a row are counted; a digit that has a row to itself is told with its column; *far* says
        that a column or a row between two is empty.

        Example:
            >>> Scene(((0, 0, 8), (0, 2, 3), (2, 1, 4))).caption()
            'an eight far left of a three far above a four in the middle'
        """
        words, before = [], None
        for row, found in itertools.groupby(self.digits, key=lambda digit: digit[0]):
            if before is not None:
                words.append("above" if row - before == 1 else "far above")
            words.append(_row([(column, digit) for _, column, digit in found]))
            before = row
        return " ".join(words)

    def pairs(self) -> set[Pair]:
        """Different digits that it brings together."""
        return set(itertools.combinations(sorted({digit for _, _, digit in self.digits}), 2))

    def draw(self, digits: Part, chosen: random.Random) -> Tensor:
        """An image (32, 32) uint8, each digit by one of its images and a pixel off its place at most."""
        image = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
        spare, loose = SIDE - GRID * CELL, CELL - DIGIT
        top, left = chosen.randint(0, spare), chosen.randint(0, spare)
        for row, column, digit in self.digits:
            y = top + CELL * row + chosen.randint(0, loose)
            x = left + CELL * column + chosen.randint(0, loose)
            image[y : y + DIGIT, x : x + DIGIT] = digits[digit][chosen.randrange(len(digits[digit]))]
        return image


def _row(found: list[tuple[int, int]]) -> str:
    """What is in a row, given as (column, digit)."""
    words, last = [], None
    for digit, run in itertools.groupby(found, key=lambda place: place[1]):
        columns = [column for column, _ in run]
        if last is not None:
            words.append("left of" if columns[0] - last == 1 else "far left of")
        words.append(counted(digit, len(columns)))
        last = columns[-1]
    return " ".join([*words, COLUMNS[found[0][0]]] if len(found) == 1 else words)


def counted(digit: int, count: int) -> str:
    """Such as "a three", "an eight" or "two sixes"."""
    if count > 1:
        return f"{NOUNS[count]} {PLURALS[digit]}"
    return f"{'an' if digit == 8 else 'a'} {NOUNS[digit]}"


@dataclass(frozen=True)
class Meetings:
    """Which digits meet: pairs of training, and those that a part has and training has not.

    Each digit has one other that it meets in the scenes held out alone, and one in those to choose by alone.
    """

    train: frozenset[Pair]
    dev: frozenset[Pair]
    test: frozenset[Pair]

    @classmethod
    def of(cls, seed: int) -> Meetings:
        ring = random.Random(seed).sample(range(len(NOUNS)), len(NOUNS))
        dev = frozenset(_pair(ring[i], ring[i + 1]) for i in range(0, len(ring), 2))
        test = frozenset(_pair(ring[i], ring[i + len(ring) // 2]) for i in range(len(ring) // 2))
        return cls(frozenset(itertools.combinations(range(len(ring)), 2)) - dev - test, dev, test)


def _pair(a: int, b: int) -> Pair:
    return (min(a, b), max(a, b))


def scene(chosen: random.Random, known: frozenset[Pair], new: frozenset[Pair] = frozenset()) -> Scene:
    """A random scene in which none but known and new pairs of digits meet, and of the new ones, if any are given,
    one at least."""
    count = chosen.randint(FEWEST, MOST)
    cells = sorted(chosen.sample(range(GRID * GRID), count))
    while True:
        digits: list[int] = []
        for _ in cells:
            again = bool(digits) and chosen.random() < REPEATED
            digits.append(digits[-1] if again else chosen.randrange(len(NOUNS)))
        found = Scene(tuple((*divmod(cell, GRID), digit) for cell, digit in zip(cells, digits, strict=True)))
        pairs = found.pairs()
        if pairs <= known | new and (not new or pairs & new):
            return found


def scenes(
    count: int, digits: Part, known: frozenset[Pair], new: frozenset[Pair], seed: str
) -> tuple[list[Scene], Tensor]:
    """Random scenes and their images (N, 32, 32) uint8; see :func:`scene`."""
    chosen = random.Random(seed)
    found = [scene(chosen, known, new) for _ in range(count)]
    return found, torch.stack([each.draw(digits, chosen) for each in found])


def digit_images(seed: int) -> list[Part]:
    """scikit-learn's 1,797 digits: two thirds to train on, a ninth to choose by, two ninths held out.

    (The test part of Alpaydin and Kaynak's "Optical recognition of handwritten digits", UCI repository.)
    """
    sklearn: Any = needs("sklearn.datasets", "recipes")
    found = sklearn.load_digits()
    images = torch.from_numpy(found.images * 255 / LARGEST).round().to(torch.uint8)
    classes = torch.from_numpy(found.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    parts = order.split([len(order) - 3 * (len(order) // 9), len(order) // 9, 2 * (len(order) // 9)])
    return [{digit: images[part[classes[part] == digit]] for digit in range(len(NOUNS))} for part in parts]


def varied(digits: Part, random: torch.Generator) -> Part:
    """Images of digits, and copies of each that are turned, stretched and sheared a little."""
    return {
        digit: torch.cat([found, *(_bent(found, random) for _ in range(COPIES))])
        for digit, found in digits.items()
    }


def _bent(found: Tensor, random: torch.Generator) -> Tensor:
    """Images (N, 8, 8) uint8, each by an affine map of its own."""
    turn, wide, high, shear = (2 * torch.rand(4, len(found), generator=random) - 1).unbind()
    cos, sin = (TURN * turn).cos(), (TURN * turn).sin()
    zero = torch.zeros_like(turn)
    rows = [cos * (1 + STRETCH * wide), sin + SHEAR * shear, zero, -sin, cos * (1 + STRETCH * high), zero]
    fine = F.interpolate(found.unsqueeze(1).float(), scale_factor=4, mode="nearest")
    places = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(fine.shape), align_corners=False)
    bent = F.avg_pool2d(F.grid_sample(fine, places, align_corners=False), 4)
    return bent.squeeze(1).round().to(torch.uint8)


def by_cells(train: Sequence[Scene], drawn: Tensor, tests: Sequence[Tensor]) -> list[list[str]]:
    """Captions of images, (N, 32, 32) of each test, by one who knows grid and grammar, and tells a cell's digit by
    a logistic regression on its pixels."""
    linear: Any = needs("sklearn.linear_model", "recipes")
    empty = len(NOUNS)
    classes = torch.full((len(train), GRID * GRID), empty)
    for i, each in enumerate(train):
        for row, column, digit in each.digits:
            classes[i, GRID * row + column] = digit
    model = linear.LogisticRegression(max_iter=300).fit(_cells(drawn).flatten(0, 1).numpy(), classes.flatten())
    found = []
    for test in tests:
        rows = torch.from_numpy(model.predict(_cells(test).flatten(0, 1).numpy())).view(len(test), -1).tolist()
        found.append([_of_cells(row, empty).caption() for row in rows])
    return found


def _of_cells(row: list[int], empty: int) -> Scene:
    return Scene(tuple((*divmod(cell, GRID), digit) for cell, digit in enumerate(row) if digit != empty))


def _cells(images: Tensor) -> Tensor:
    """Images (N, 32, 32) as the pixels of their cells, (N, 9, 144): all where a cell's digit may be."""
    side = CELL + SIDE - GRID * CELL
    cells = images.unfold(1, side, CELL).unfold(2, side, CELL)
    return cells.reshape(len(images), GRID * GRID, side * side) / 255


__all__ = [
    "SIDE",
    "Meetings",
    "Part",
    "Scene",
    "by_cells",
    "counted",
    "digit_images",
    "scene",
    "scenes",
    "varied",
]
