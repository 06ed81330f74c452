"""Time series: read from CSV, and brought to a form in which a network has little left to learn."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._program import UserError, read_text

# Of each series that is known: file, column, steps of a season, what is measured.
KNOWN = {
    "airline": ("airline-passengers.csv", "Passengers", 12, "thousands of passengers a month"),
    "sunspots": ("monthly-sunspots.csv", "Sunspots", 132, "sunspots, monthly mean"),
    "temperatures": ("daily-min-temperatures.csv", "Temp", 365, "daily minimum, °C"),
}
TRANSFORMS = {"none": (lambda x: x, lambda x: x), "log": (torch.log, torch.exp)}
TRANSFORMS["root"] = (torch.sqrt, lambda x: x.clamp(min=0).square())


def read_column(path: Path, column: str | None, option: str) -> tuple[str, Tensor]:
    """A column of a CSV file with a header: its name, and its values (N,) in float64.

    Args:
        column: its name; None for the last one.

    Raises:
        UserError: if there is no such column, or a value that is no number.
    """
    rows = [row for row in csv.reader(read_text(path, option).splitlines()) if any(row)]
    if len(rows) < 2:
        raise UserError(f"{option}: {path} is empty, expected a header and rows of numbers")
    names = [name.strip() for name in rows[0]]
    if column is not None and column not in names:
        raise UserError(f"--column: {path} has no {column!r}, only {', '.join(names)}")
    place = len(names) - 1 if column is None else names.index(column)
    values = []
    for number, row in enumerate(rows[1:], 2):
        try:
            values.append(float(row[place]))
            if not math.isfinite(values[-1]):
                raise ValueError
        except (ValueError, IndexError):
            found = repr(row[place]) if place < len(row) else "nothing"
            raise UserError(f"{option}: {path}, line {number}: {names[place]} is {found}, no number") from None
    return names[place], torch.tensor(values, dtype=torch.float64)


def season_of(values: Tensor) -> int:
    """The lag at which the steps from value to value are most like themselves, 1 if at none (N,)."""
    steps = values.diff() - values.diff().mean()
    power = steps.square().sum()
    most = min(400, len(steps) // 3)
    if most < 2 or not power > 0:
        return 1
    alike = torch.stack([(steps[lag:] * steps[:-lag]).sum() for lag in range(2, most + 1)]) / power
    return int(alike.argmax()) + 2 if float(alike.max()) > 0.3 else 1


@dataclass(frozen=True)
class Form:
    r"""How a series is presented to a network, found from its training part alone.

    The series, transformed where its spread grows with its level, is followed as it is or as the difference
    :math:`u_t = x_t - x_{t-lag}` to a season before, whichever changes less; what is left to predict is
    :math:`(u_{t+h} - u_t) / spread_h`, so that a network that says 0 says what a naive forecast does.

    Args:
        transform: ``"none"``, ``"log"`` or ``"root"``.
        season: steps, for the phase, which the network is told.
        lag: 0, or a multiple of the season, at least the horizon.
        mean, std: of u in training; spread: for each step ahead.
    """

    transform: str
    season: int
    lag: int
    mean: float
    std: float
    spread: list[float]

    @classmethod
    def of(cls, train: Tensor, season: int, horizon: int) -> Form:
        """For a series (N,) with steps 1 to `horizon` to be predicted."""
        transform = _transform(train, season)
        x = TRANSFORMS[transform][0](train)
        lag = season * math.ceil(horizon / season) if season > 1 else 0
        if len(x) < lag + 2 * horizon + 2:
            lag = 0
        forms = {k: _changes(x[k:] - x[:-k] if k else x, horizon) for k in {0, lag}}
        lag = min(forms, key=lambda k: float(forms[k].mean()))
        u = x[lag:] - x[:-lag] if lag else x
        floor = 1e-6 + 1e-6 * float(x.abs().mean())
        spread = [max(float(s), floor) for s in forms[lag]]
        return cls(transform, season, lag, float(u.mean()), max(float(u.std()), floor), spread)

    def level(self, values: Tensor) -> Tensor:
        """Values as x: (N,) to (N,)."""
        return TRANSFORMS[self.transform][0](values)

    def followed(self, values: Tensor) -> Tensor:
        """Values (N,) as u, NaN in the first `lag` places."""
        x = self.level(values)
        if not self.lag:
            return x
        return torch.cat([x.new_full((self.lag,), torch.nan), x[self.lag :] - x[: -self.lag]])

    def windows(self, values: Tensor, origins: Tensor, length: int) -> Tensor:
        """What the network is given (B, W, 4) at origins (B,), the places of the last known value, in float32."""
        places = origins.unsqueeze(1) + torch.arange(1 - length, 1)
        u = self.followed(values)[places]
        phase = 2 * math.pi * (places % self.season) / self.season
        seen = [(u - self.mean) / self.std, (u - u[:, -1:]) / self.std, phase.sin(), phase.cos()]
        return torch.stack([s.double() for s in seen], 2).float()

    def targets(self, values: Tensor, origins: Tensor) -> Tensor:
        """What is to be predicted (B, H); NaN beyond the series' end."""
        horizon = len(self.spread)
        u = self.followed(values)
        u = torch.cat([u, u.new_full((horizon,), torch.nan)])
        change = u[origins.unsqueeze(1) + torch.arange(1, horizon + 1)] - u[origins].unsqueeze(1)
        return (change / torch.tensor(self.spread)).float()

    def restore(self, values: Tensor, origins: Tensor, predicted: Tensor) -> Tensor:
        """Values (B, H, Q) that what was predicted (B, H, Q) stands for."""
        u, x = self.followed(values), self.level(values)
        found = predicted.double() * torch.tensor(self.spread).unsqueeze(1) + u[origins].view(-1, 1, 1)
        if self.lag:
            ahead = origins.unsqueeze(1) + torch.arange(1, len(self.spread) + 1) - self.lag
            found = found + x[ahead].unsqueeze(2)
        return TRANSFORMS[self.transform][1](found)

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def first(self, length: int) -> int:
        """The first origin that has a whole window before it."""
        return self.lag + length - 1


def _transform(train: Tensor, season: int) -> str:
    """The one that has the spread within seasons not grow with their level."""
    length = season if season > 3 else 12
    blocks = train[: len(train) // length * length].view(-1, length)
    if len(blocks) < 3 or float(train.min()) < 0:
        return "none"
    both = torch.stack([blocks.mean(1), blocks.std(1)])
    if not bool((both.std(1) > 0).all()) or float(torch.corrcoef(both)[0, 1]) < 0.6:
        return "none"
    return "log" if float(train.min()) > 0 else "root"


def _changes(u: Tensor, horizon: int) -> Tensor:
    """Root of the mean square of u's change over 1 to `horizon` steps, (H,)."""
    return torch.stack([(u[h:] - u[:-h]).square().mean().sqrt() for h in range(1, horizon + 1)])


def seasonal_naive(values: Tensor, season: int, origins: Tensor, horizon: int) -> Tensor:
    """The value of the last season known at each origin: (B, H)."""
    ahead = torch.arange(1, horizon + 1)
    back = season * ((ahead + season - 1) // season)
    return values[(origins.unsqueeze(1) + ahead - back).clamp(min=0)]


__all__ = ["KNOWN", "Form", "read_column", "season_of", "seasonal_naive"]
