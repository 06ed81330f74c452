"""Forecasts: what networks are shown, what is made of what they say, on a series of our own and the real ones."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from published import looks_right

from rnnfast.__main__ import main
from rnnfast._program import UserError
from rnnfast.recipes.applications.forecast import (
    QUANTILES,
    Forecast,
    ForecastTask,
    PredictForecast,
    judge,
    network,
    pinball,
    widening,
)
from rnnfast.recipes.applications.series import TRANSFORMS, Form, read_column, season_of, seasonal_naive
from rnnfast.recipes.training import Schedule, Trainer

pytest.importorskip("accelerate", reason="training needs accelerate")
pytest.importorskip("matplotlib", reason="figures need matplotlib")
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")

REAL = Path(os.environ.get("RNNFAST_DATA", "/nowhere"))
FAST = dict(models=2, hidden_size=12, steps=80, horizon=4, window=8, rate=0.01, batch_size=32)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def noise_of(count):
    """The same in each run: some of what follows is chosen by what the noise happens to be."""
    return torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def waves(count, period=7, noise=0.1, growth=0.0):
    """A season, on a level that may grow, with noise."""
    t = torch.arange(count, dtype=torch.float64)
    wave = 3 + torch.sin(2 * math.pi * t / period) + noise * noise_of(count)
    return wave * torch.exp(growth * t)


def write(file, values, column="Units"):
    file.write_text(f"day,{column}\n" + "".join(f"{i},{v}\n" for i, v in enumerate(values.tolist())))
    return file


@pytest.fixture
def sales(tmp_path):
    """A noisy level that goes up and down: next to it the last value and the last season are poor forecasts."""
    t = torch.arange(240, dtype=torch.float64)
    values = 50 + 10 * torch.sin(2 * math.pi * t / 30) + 4 * noise_of(240)
    return write(tmp_path / "sales.csv", values)


def test_a_series_is_learnt_and_continued(sales, tmp_path, capsys):
    result = Forecast(csv=sales, season=30, output=tmp_path / "out", **FAST).run()
    (found,) = result.data["series"]
    for part in ("one step", "all steps"):
        assert found[part]["rmse"] < 0.95 * found[part]["seasonal naive"]
        assert found[part]["rmse"] < 0.95 * found[part]["last value"]
        assert 0.5 < found[part]["coverage"] < 1
    assert len(found["by steps ahead"]) == 4
    assert result.ok
    assert looks_right(result)
    answer = ["predict", "forecast", str(sales), "--checkpoint", str(tmp_path / "out" / "model.pt"), "--json"]
    capsys.readouterr()
    assert main([*answer, "--output", str(tmp_path / "answer")]) == 0
    predicted = json.loads(capsys.readouterr().out)
    assert predicted["column"] == "Units"
    assert len(predicted["forecast"]) == 4
    for low, middle, high in predicted["forecast"]:
        assert 25 < low < middle < high < 75
    assert (tmp_path / "answer" / "forecast.png").read_bytes().startswith(b"\x89PNG")


def test_the_forecast_of_a_checkpoint_is_that_of_its_training(sales, tmp_path):
    program = Forecast(csv=sales, season=30, output=tmp_path / "out", **FAST | dict(steps=5))
    trained = program.fit()
    program.report(trained)
    ((forecaster, values, _),) = trained
    expected = forecaster(values, torch.tensor([len(values) - 1]))[0]
    found = PredictForecast(input=str(sales), checkpoint=tmp_path / "out" / "model.pt").run()
    torch.testing.assert_close(torch.tensor(found.data["forecast"], dtype=torch.float64), expected)


def test_the_weights_are_those_that_were_best_on_what_was_left_out(sales):
    torch.manual_seed(0)
    settings = Forecast(**FAST).settings()
    _, values = read_column(sales, None, "")
    form = Form.of(values, 30, 4)
    origins = torch.arange(form.first(8), len(values) - 4)
    left_out, kept = torch.arange(20), torch.arange(20, len(origins))
    windows, targets = form.windows(values, origins, 8), form.targets(values, origins)
    task = ForecastTask(network(settings), windows, targets, kept, left_out, batch_size=32, seed=0)
    progress = Trainer().train(task, Schedule(30, 0.2, evaluate_every=3), "sales")
    found = [row["left out"] for row in progress.metrics]
    for weights in task.model.parameters():
        torch.nn.init.normal_(weights, std=9.0)
    assert task.evaluate()["left out"] > min(found)
    task.best.restore(task.model)
    assert task.evaluate()["left out"] == pytest.approx(min(found))
    seen = {tuple(window[:, 0].tolist()) for step in range(30) for window in task.batch(step)[0]}
    assert seen <= {tuple(window[:, 0].tolist()) for window in windows[kept]}


def test_held_out_values_are_not_trained_on(sales, tmp_path):
    _, values = read_column(sales, None, "")
    values[160:] = 1000 * noise_of(80)
    other = write(tmp_path / "other.csv", values)
    options = FAST | dict(steps=4)
    (one, _, end), (two, _, _) = (Forecast(csv=file, season=30, **options).fit()[0] for file in (sales, other))
    assert end == 160
    assert one.form == two.form
    assert torch.equal(one.widen, two.widen)
    for a, b in zip(one.models, two.models, strict=True):
        assert all(
            torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
        )


FORMS = {
    "log": (waves(90, 6, growth=0.03), 6, "log", 6),
    "a season ago": (waves(90, 6, noise=0.05), 6, "none", 6),
    "the last": (noise_of(90).cumsum(0), 1, "none", 0),
    "root": ((waves(90, 6, growth=0.03) - 1).clamp(min=0) * (torch.arange(90) != 8), 6, "root", 6),
}


@pytest.mark.parametrize("which", FORMS)
def test_targets_stand_for_the_values(which):
    values, season, transform, lag = FORMS[which]
    form = Form.of(values[:60], season, 5)
    assert (form.transform, form.lag) == (transform, lag)
    origins = torch.arange(form.first(8), len(values) - 5)
    targets = form.targets(values, origins)
    restored = form.restore(values, origins, targets.unsqueeze(2))[:, :, 0]
    expected = values[origins.unsqueeze(1) + torch.arange(1, 6)]
    torch.testing.assert_close(restored, expected, rtol=1e-4, atol=1e-4)
    level = form.restore(values, origins, torch.zeros(len(origins), 5, 1))[:, 0, 0]
    x = TRANSFORMS[transform][0](values)
    naive = x[origins] if not lag else x[origins + 1 - lag] + x[origins] - x[origins - lag]
    torch.testing.assert_close(level, TRANSFORMS[transform][1](naive))


@pytest.mark.parametrize("which", FORMS)
def test_windows_hold_what_is_known_only(which):
    values, season, *_ = FORMS[which]
    form = Form.of(values[:60], season, 5)
    origins = torch.tensor([form.first(8), 40])
    windows = form.windows(values, origins, 8)
    assert windows.shape == (2, 8, 4)
    assert windows.isfinite().all()
    changed = values.clone()
    changed[41:] += 100
    assert torch.equal(form.windows(changed, origins, 8), windows)
    changed[40] += 1
    assert not torch.equal(form.windows(changed, origins, 8)[1], windows[1])


def test_targets_beyond_the_end_are_none():
    values = waves(40)
    form = Form.of(values, 7, 3)
    found = form.targets(values, torch.tensor([35, 37, 39]))
    assert found.isnan().sum(1).tolist() == [0, 1, 3]


def test_the_season_is_found():
    assert season_of(waves(140, 7, noise=0.03)) == 7
    assert season_of(waves(240, 12, noise=0.03, growth=0.01)) == 12
    assert season_of(noise_of(300)) == 1
    assert season_of(torch.ones(50, dtype=torch.float64)) == 1


def test_the_last_season_known():
    values = torch.arange(20.0)
    found = seasonal_naive(values, 4, torch.tensor([11, 15]), 6)
    assert found.tolist() == [[8, 9, 10, 11, 8, 9], [12, 13, 14, 15, 12, 13]]


def test_the_quantile_loss_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics", reason="compares with scikit-learn")
    found, targets = torch.randn(6, 3, 3), torch.randn(6, 3)
    expected = sum(
        metrics.mean_pinball_loss(targets.flatten(), found[:, :, i].flatten(), alpha=q)
        for i, q in enumerate(QUANTILES)
    )
    assert pinball(found, targets).mean().item() == pytest.approx(expected, rel=1e-5)


def test_intervals_are_widened_to_what_they_should_hold():
    missed = torch.randn(199, 3)
    assert (missed <= widening(missed)).float().mean(0).tolist() == pytest.approx([0.8] * 3, abs=0.01)


def test_a_forecast_is_judged_as_it_should_be():
    """By a forecaster that is right at one step and 2 too high at all others, its interval 1 to each side."""
    values = torch.arange(30, dtype=torch.float64)

    class Known:
        form = Form("none", 4, 0, 0.0, 1.0, [1.0] * 3)

        def __call__(self, values, origins):
            middle = values[origins].unsqueeze(1) + torch.tensor([1.0, 4.0, 5.0])
            return torch.stack([middle - 1, middle, middle + 1], 2)

    found = judge(Known(), values, 20)
    assert found["one step"] == {"rmse": 0, "seasonal naive": 4, "last value": 1, "coverage": 1}
    assert [row["rmse"] for row in found["by steps ahead"]] == [0, 2, 2]
    assert found["all steps"]["coverage"] == pytest.approx(10 / (10 + 9 + 8))
    assert found["all steps"]["rmse"] == pytest.approx(math.sqrt(4 * 17 / 27))


WRONG = {
    "not there": (None, "--csv: cannot read .*: No such file or directory"),
    "empty": ("", "--csv: .* is empty, expected a header and rows of numbers"),
    "a header only": ("day,Units\n", "--csv: .* is empty, expected"),
    "other column": ("day,Sold\n1,2\n", "--column: .* has no 'Units', only day, Sold"),
    "no number": ("day,Units\n1,2\n2,x\n", "--csv: .*, line 3: Units is 'x', no number"),
    "not finite": ("day,Units\n1,inf\n", "--csv: .*, line 2: Units is 'inf', no number"),
    "short row": ("day,Units\n1,2\n2\n", "--csv: .*, line 3: Units is nothing, no number"),
    "too short": ("day,Units\n" + "1,2\n2,3\n" * 12, r"--csv: Units has 24 values, expected at least \d+"),
    "constant": ("day,Units\n" + "1,2\n" * 90, "--csv: Units does not change"),
}


@pytest.mark.parametrize("which", WRONG)
def test_a_file_that_is_no_series(which, tmp_path):
    content, message = WRONG[which]
    file = tmp_path / "a.csv"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=f"^{message}"):
        Forecast(csv=file, column="Units", **FAST).run()


def test_an_answer_that_cannot_be_given(sales, tmp_path):
    Forecast(csv=sales, season=30, output=tmp_path, **FAST | dict(steps=2)).run()
    model = tmp_path / "model.pt"
    few = write(tmp_path / "few.csv", torch.rand(4))
    for options, message in (
        (dict(input=str(few)), r"INPUT: .*few.csv has 4 rows, expected at least \d+"),
        (dict(input=str(sales), column="Price"), "--column: .* has no 'Price', only day, Units"),
        (dict(input=str(sales), series="airline"), "--series: the checkpoint has no 'airline', only sales"),
        (dict(input="none.csv"), "INPUT: none.csv is no file, expected a CSV file"),
        (dict(), "INPUT: none given, expected a CSV file"),
    ):
        with pytest.raises(UserError, match=message):
            PredictForecast(checkpoint=model, **options).run()


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "timeseries").is_dir(), reason="RNNFAST_DATA names no folder with timeseries/")
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_forecasts_of_the_real_series(cell):
    found = {each["series"]: each for each in Forecast(cell=cell).run().data["series"]}
    assert list(found) == ["airline", "sunspots", "temperatures"]
    assert found["airline"]["one step"]["seasonal naive"] == pytest.approx(41.85, abs=0.01)
    assert found["airline"]["one step"]["rmse"] <= 20
    for each in found.values():
        for part in ("one step", "all steps"):
            assert each[part]["rmse"] < each[part]["seasonal naive"]
            assert each[part]["rmse"] < each[part]["last value"]
            assert 0.7 < each[part]["coverage"] < 0.97
