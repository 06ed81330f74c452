"""Forecasts of time series, several steps ahead and with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..._program import Result, UserError, setting
from ...lab.figures import panels
from ...lab.report import table
from ...models import CELLS, ReadoutRNN
from .. import data
from ..order import Order
from ..training import Schedule
from .application import Application, ChoosingTask, Prediction
from .series import KNOWN, Form, read_column, season_of, seasonal_naive

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUANTILES = (0.1, 0.5, 0.9)
NOMINAL = QUANTILES[-1] - QUANTILES[0]
FEATURES = 4


def network(settings: dict[str, Any]) -> ReadoutRNN:
    """Windows (B, W, 4) to outputs (B, W, H Q), of which the last step's are the forecast; at first all 0."""
    outputs = settings["horizon"] * len(QUANTILES)
    model = ReadoutRNN(
        FEATURES, settings["hidden_size"], outputs, cell=settings["cell"], layers=settings["layers"]
    )
    nn.init.zeros_(model.readout.weight)
    nn.init.zeros_(model.readout.bias)
    return model


def quantiles(model: nn.Module, windows: Tensor) -> Tensor:
    """The network's quantiles (B, H, Q) of what is to come."""
    return model(windows)[0][:, -1].unflatten(1, (-1, len(QUANTILES)))


class ForecastTask(ChoosingTask):
    r"""Quantile regression (Koenker and Bassett, "Regression quantiles", Econometrica 46, 1978):

    .. math::
        \sum_q \max(q (y - \hat y_q),\, (q - 1)(y - \hat y_q))

    Args:
        windows: (N, W, 4); targets: (N, H).
        kept: the rows that are trained on; left_out: those that the best weights are chosen by.
    """

    def __init__(
        self,
        model: nn.Module,
        windows: Tensor,
        targets: Tensor,
        kept: Tensor,
        left_out: Tensor,
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__(model)
        self.windows, self.targets, self.kept, self.left_out = windows, targets, kept, left_out
        self.order = Order(len(kept), batch_size, seed)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Windows and targets."""
        rows = self.kept[self.order[step]]
        return self.windows[rows], self.targets[rows]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
        """The quantile loss."""
        windows, targets = batch
        return pinball(quantiles(model, windows), targets).sum(), targets.numel()

    def evaluate(self) -> dict[str, float]:
        """The quantile loss of the rows left out."""
        found = float(pinball(self.without(), self.targets[self.left_out]).mean())
        self.best.note(self.model, found)
        return {"left out": found}

    @torch.no_grad()
    def without(self) -> Tensor:
        """Quantiles (B, H, Q) of the rows left out."""
        place = next(self.model.parameters()).device
        return quantiles(self.model, self.windows[self.left_out].to(place)).cpu()


def pinball(found: Tensor, targets: Tensor) -> Tensor:
    """The quantile loss of found (B, H, Q) for targets (B, H), summed over quantiles: (B, H)."""
    over = targets.unsqueeze(2) - found
    q = torch.tensor(QUANTILES, device=found.device)
    return torch.maximum(q * over, (q - 1) * over).sum(2)


@dataclass
class Forecaster:
    """Networks for one series, with how it is presented to them and how much wider their intervals must be.

    Args:
        name, column, unit: of the series; models: whose forecasts are averaged.
        widen: for each step ahead, in units of its spread.
    """

    name: str
    column: str
    unit: str
    form: Form
    window: int
    models: list[Any]
    widen: Tensor

    @torch.no_grad()
    def __call__(self, values: Tensor, origins: Tensor) -> Tensor:
        """Quantiles (B, H, Q) of the values after each origin (B,), the place of the last one known."""
        place = self.models[0].readout.weight.device
        windows = self.form.windows(values, origins, self.window).to(place)
        found = sum(quantiles(model, windows) for model in self.models).cpu() / len(self.models)
        found[:, :, 0] -= self.widen
        found[:, :, -1] += self.widen
        return self.form.restore(values, origins, found.sort(2).values)

    @property
    def least(self) -> int:
        """How many values it must be given."""
        return self.form.first(self.window) + 1


@dataclass(frozen=True)
class PredictForecast(Prediction):
    """Forecasts the next values of a column of a CSV file."""

    application = "forecast"
    expects = "a CSV file with a header"
    examples = ("passengers.csv --column Passengers", "spots.csv --series sunspots --json")

    column: str | None = setting(None, "of the file (default: the last)", metavar="NAME")
    series: str | None = setting(None, "whose model is asked (default: the first one of the checkpoint)")

    def load(self, content: dict[str, Any]) -> list[Any]:
        """The forecasters of a checkpoint."""
        settings, weights = content["settings"], iter(content["weights"])
        found = []
        for each in content["series"]:
            models = [self.ready(network(settings), next(weights)) for _ in range(settings["models"])]
            form, widen = Form(**each["form"]), torch.tensor(each["widen"])
            found.append(
                Forecaster(each["name"], each["column"], each["unit"], form, settings["window"], models, widen)
            )
        return found

    def answer(self, content: dict[str, Any], models: list[Any]) -> Result:
        """The next values, each with its interval."""
        names = [each.name for each in models]
        if self.series is not None and self.series not in names:
            raise UserError(f"--series: the checkpoint has no {self.series!r}, only {', '.join(names)}")
        chosen = models[0 if self.series is None else names.index(self.series)]
        column, values = read_column(self.file(), self.column, "INPUT")
        if len(values) < chosen.least:
            raise UserError(f"INPUT: {self.input} has {len(values)} rows, expected at least {chosen.least}")
        if chosen.form.transform != "none" and float(values.min()) < (
            1e-9 if chosen.form.transform == "log" else 0
        ):
            raise UserError(f"INPUT: {column} has values below 0, which the model's series has not")
        found = chosen(values, torch.tensor([len(values) - 1]))[0]
        rows = [[str(h), *(f"{v:.4g}" for v in (m, lo, hi))] for h, (lo, m, hi) in enumerate(found.tolist(), 1)]
        heading = f"{column} after row {len(values)}, by the model for {chosen.name}:"
        columns = ["steps ahead", "median", f"{QUANTILES[0]:.0%}", f"{QUANTILES[-1]:.0%}"]
        numbers = {"column": column, "series": chosen.name, "quantiles": QUANTILES, "forecast": found.tolist()}
        figure = partial(draw_next, column, values, found)
        return Result("\n".join([heading, table(columns, rows)]), numbers, {"forecast": figure})


@dataclass(frozen=True)
class Forecast(Application):
    """Learns to forecast time series, with intervals, beside naive forecasts.

    The last third of each series is held out. Several networks are trained, each without one stretch of the
    windows; there it is seen how far off they are where they were not trained, and the intervals are widened
    accordingly (Romano, Patterson and Candès, "Conformalized quantile regression", arXiv:1905.03222; over several
    models: Barber et al., arXiv:1905.02928).
    """

    prediction = PredictForecast
    examples = ("--series airline", "--csv sales.csv --column Units --season 7", "--cell lstm --layers torch")

    cell: str = setting("gru", "of the layer", choices=CELLS)
    series: tuple[str, ...] = setting(tuple(KNOWN), "to learn, each by itself", choices=tuple(KNOWN))
    csv: Path | None = setting(None, "with a series of yours, in place of these", metavar="FILE")
    column: str | None = setting(None, "of --csv (default: the last)", metavar="NAME")
    season: int = setting(0, "steps of a season of --csv; 0: found by autocorrelation", least=0)
    horizon: int = setting(12, "steps to forecast", least=1)
    window: int = setting(24, "values that a forecast is made from", least=2)
    models: int = setting(4, "whose forecasts are averaged", least=2)
    hidden_size: int = setting(32, "units", least=1)
    steps: int = setting(300, "of training, for each model", least=1)
    batch_size: int = setting(32, "windows of a step", least=1)
    rate: float = setting(3e-3, "highest learning rate", least=0)

    def fit(self) -> list[tuple[Forecaster, Tensor, int]]:
        """A forecaster for each series, with the series and where its held-out part begins."""
        return [self.learn(*each) for each in self.read()]

    def read(self) -> list[tuple[str, str, Tensor, int, str]]:
        """Name, column, values, season and unit of each series."""
        if self.csv is not None:
            column, values = read_column(self.csv, self.column, "--csv")
            season = self.season or season_of(values[: held_out_from(values)])
            return [(self.csv.stem, column, values, season, column)]
        found = data.find("timeseries", self.data, [KNOWN[name][0] for name in self.series])
        rows = []
        for name in self.series:
            file, column, season, unit = KNOWN[name]
            rows.append((name, *read_column(found.files[file], column, "data"), season, unit))
        return rows

    def learn(
        self, name: str, column: str, values: Tensor, season: int, unit: str
    ) -> tuple[Forecaster, Tensor, int]:
        """Trains the models of one series."""
        end = held_out_from(values)
        if float(values[:end].std()) == 0:
            raise UserError(f"--csv: {column} does not change")
        form = Form.of(values[:end], season, self.horizon)
        origins = torch.arange(form.first(self.window), end - self.horizon)
        if len(origins) < 2 * self.models:
            least = (form.first(self.window) + self.horizon + 2 * self.models) * 3 // 2 + 1
            raise UserError(f"--csv: {column} has {len(values)} values, expected at least {least}")
        windows = form.windows(values, origins, self.window)
        targets = form.targets(values, origins)
        stretches = torch.arange(len(origins)).tensor_split(self.models)
        models, missed = [], []
        for number, left_out in enumerate(stretches):
            torch.manual_seed(self.seed + 1000 * number)
            kept = torch.cat([s for s in stretches if s is not left_out])
            task = ForecastTask(
                network(self.settings()),
                windows,
                targets,
                kept,
                left_out,
                batch_size=self.batch_size,
                seed=self.seed + number,
            )
            minutes = None if self.minutes is None else self.minutes / self.models / len(self.series)
            schedule = Schedule(self.steps, self.rate, evaluate_every=max(1, self.steps // 10), minutes=minutes)
            self.trainer(self.seed + number).train(task, schedule, f"{name}-{number + 1}")
            task.best.restore(task.model)
            models.append(task.model)
            missed.append(overshoot(task))
        widen = widening(torch.cat(missed))
        return Forecaster(name, column, unit, form, self.window, models, widen), values, end

    def report(self, trained: list[tuple[Forecaster, Tensor, int]]) -> Result:
        """Forecasts from each held-out value on."""
        series: list[dict[str, Any]] = [
            {"name": f.name, "column": f.column, "unit": f.unit, "form": f.form.plain(), "widen": f.widen.tolist()}
            for f, _, _ in trained
        ]
        self.save_model("forecast", [model for f, _, _ in trained for model in f.models], series=series)
        rows, found = [], []
        for forecaster, values, end in trained:
            judged = judge(forecaster, values, end)
            found.append({"series": forecaster.name, "form": forecaster.form.plain(), **judged})
            for ahead, key in (("1", "one step"), (f"1 to {self.horizon}", "all steps")):
                row = judged[key]
                shown = [f"{row[k]:.2f}" for k in ("rmse", "seasonal naive", "last value")]
                rows.append([forecaster.name, ahead, *shown, f"{row['coverage']:.0%}"])
        columns = [
            "series",
            "steps ahead",
            "RMSE",
            "seasonal naive",
            "last value",
            f"within {NOMINAL:.0%} interval",
        ]
        lines = [
            f"{self.cell}, mean of {self.models}, on the last third of each series:",
            "",
            table(columns, rows),
        ]
        numbers = {"settings": self.settings(), "series": found}
        beaten = all(f["one step"]["rmse"] < f["one step"]["seasonal naive"] for f in found)
        return Result("\n".join(lines), numbers, {"forecasts": partial(draw, trained)}, ok=beaten)


def held_out_from(values: Tensor) -> int:
    """Where the last third begins."""
    return len(values) - len(values) // 3


def overshoot(task: ForecastTask) -> Tensor:
    """By how much targets of the rows left out lie outside the interval, (B, H); negative within."""
    found, targets = task.without(), task.targets[task.left_out]
    return torch.maximum(found[:, :, 0] - targets, targets - found[:, :, -1])


def widening(missed: Tensor) -> Tensor:
    """What to add to both ends so that the share of targets within is as it should be: (N, H) to (H,)."""
    share = min(1.0, NOMINAL * (1 + 1 / len(missed)))
    return missed.quantile(share, 0)


def judge(forecaster: Forecaster, values: Tensor, begin: int) -> dict[str, Any]:
    """Errors of medians and of naive forecasts, and how many values lie within the intervals."""
    origins = torch.arange(begin - 1, len(values) - 1)
    horizon = len(forecaster.form.spread)
    ahead = origins.unsqueeze(1) + torch.arange(1, horizon + 1)
    there = ahead < len(values)
    truth = values[ahead.clamp(max=len(values) - 1)]
    found = forecaster(values, origins)
    rows = {
        "rmse": found[:, :, 1] - truth,
        "seasonal naive": seasonal_naive(values, forecaster.form.season, origins, horizon) - truth,
        "last value": values[origins].unsqueeze(1) - truth,
    }
    within = (found[:, :, 0] <= truth) & (truth <= found[:, :, 2])

    def summary(chosen: Tensor) -> dict[str, float]:
        errors = {name: float(e[chosen].square().mean().sqrt()) for name, e in rows.items()}
        return {**errors, "coverage": float(within[chosen].double().mean())}

    each = [there & (torch.arange(horizon) == h) for h in range(horizon)]
    return {
        "one step": summary(each[0]),
        "all steps": summary(there),
        "by steps ahead": [summary(chosen) for chosen in each if bool(chosen.any())],
    }


def draw(trained: list[tuple[Forecaster, Tensor, int]], most: int = 120) -> Figure:
    """For each series held-out values beside forecasts of one step, and what comes after its end."""
    figure, axes = panels(len(trained), 1, height=3.0 * len(trained) + 0.8)
    for each, (forecaster, values, begin) in zip(axes, trained, strict=True):
        first = max(begin, len(values) - most)
        origins = torch.arange(first - 1, len(values) - 1)
        lo, middle, hi = forecaster(values, origins)[:, 0].unbind(1)
        x = (origins + 1).tolist()
        each.plot(x, values[first:], color="black", marker=".", markersize=3, linewidth=0.8, label="measured")
        each.plot(x, middle, color="C0", label="one step ahead, median")
        each.fill_between(x, lo, hi, color="C0", alpha=0.2, linewidth=0, label=f"{NOMINAL:.0%} interval")
        ahead = forecaster(values, torch.tensor([len(values) - 1]))[0]
        fan(each, len(values), ahead, f"next {len(ahead)} steps")
        each.set(ylabel=forecaster.unit, title=f"{forecaster.name}: held out, and what comes next")
        each.set_xlabel("step of the series")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def fan(axes: Axes, begin: int, found: Tensor, label: str) -> None:
    """Forecasts (H, Q) from a place on."""
    x = list(range(begin, begin + len(found)))
    axes.plot(x, found[:, 1], color="C3", marker=".", label=label)
    axes.fill_between(x, found[:, 0], found[:, 2], color="C3", alpha=0.2, linewidth=0)


def draw_next(column: str, values: Tensor, found: Tensor, most: int = 120) -> Figure:
    """The end of a series and what comes after it."""
    figure, (axes,) = panels()
    first = max(0, len(values) - most)
    axes.plot(range(first, len(values)), values[first:], color="black", linewidth=0.8, label="given")
    fan(axes, len(values), found, f"median and {NOMINAL:.0%} interval")
    axes.set(xlabel="row", ylabel=column, title=f"{column}: the next {len(found)} values")
    axes.legend()
    return figure


__all__ = ["Forecast", "ForecastTask", "Forecaster", "PredictForecast", "judge", "pinball"]
