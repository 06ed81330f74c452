"""The amplifier: its files, its data, its loss, and what comes out of the stream."""

import random
import sys

import pytest
import torch
from torch import nn

from rnnfast.__main__ import main
from rnnfast._program import UserError
from rnnfast.models import StreamingFilter
from rnnfast.recipes.examples import amplifier, overdrive, wav
from rnnfast.recipes.examples.amplifier import Amplifier, AmplifierTask, Pair

pytest.importorskip("accelerate", reason="training needs accelerate")
pytest.importorskip("matplotlib", reason="figures need matplotlib")
wavfile = pytest.importorskip("scipy.io.wavfile", reason="WAV files are read by SciPy")
numpy = pytest.importorskip("numpy")
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")

QUICK = dict(seconds=2.0, steps=60, hidden_size=8, batch_size=16, length=256, rate=2e-2)
RATE = 8000


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """dry.wav and wet.wav, with and without what is wrong with them."""
    folder = tmp_path_factory.mktemp("wav")
    dry = overdrive.plucks(1.0, RATE, torch.Generator().manual_seed(1))
    wav.write(folder / "dry.wav", dry, RATE)
    wav.write(folder / "wet.wav", overdrive.overdrive(dry, RATE), RATE)
    wav.write(folder / "fast.wav", dry, 2 * RATE)
    wav.write(folder / "short.wav", dry[:500], RATE)
    wav.write(folder / "silent.wav", torch.zeros_like(dry), RATE)
    wav.write(folder / "nan.wav", torch.full_like(dry, float("nan")), RATE)
    Amplifier(output=folder, hidden_size=2).save_model("amplifier", [StreamingFilter(2)], rate=RATE)
    (folder / "model.pt").rename(folder / "good.pt")
    wavfile.write(folder / "stereo.wav", RATE, numpy.zeros((100, 2), dtype=numpy.int16))
    wavfile.write(folder / "empty.wav", RATE, numpy.zeros(0, dtype=numpy.int16))
    (folder / "text.wav").write_text("this is no sound, though it says so " * 9)
    (folder / "nothing.wav").write_bytes(b"")
    (folder / "half.wav").write_bytes((folder / "dry.wav").read_bytes()[:30])
    (folder / "most.wav").write_bytes((folder / "dry.wav").read_bytes()[:-400])
    (folder / "bare.wav").write_bytes(b"RIFF\x04\0\0\0WAVE")
    return folder


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("uint8", 0, 255), ("int16", -32768, 32767), ("int32", -(2**31), 2**31 - 1), ("float64", -1, 1)],
)
def test_samples_of_all_kinds_are_read_from_minus_one_to_one(dtype, low, high, tmp_path):
    middle = 128 if dtype == "uint8" else 0
    wavfile.write(tmp_path / "a.wav", 11_025, numpy.array([low, middle, high], dtype=dtype))
    samples, rate = wav.read("--apply", tmp_path / "a.wav")
    assert (rate, samples.dtype) == (11_025, torch.float32)
    torch.testing.assert_close(samples, torch.tensor([-1.0, 0.0, 1.0]), rtol=0, atol=0.01)
    assert samples[:2].tolist() == [-1.0, 0.0]


def test_what_is_written_is_read_again(tmp_path):
    samples = 3 * torch.randn(1000)
    wav.write(tmp_path / "b" / "a.wav", samples, 48_000)
    found, rate = wav.read("--apply", tmp_path / "b" / "a.wav")
    assert torch.equal(found, samples)
    assert rate == 48_000


WRONG = {
    "one": (["--input", "dry.wav"], "--input and --target: got one of them, expected both"),
    "rates": (["--input", "dry.wav", "--target", "fast.wav"], "--target: fast.wav has 16000 Hz, expected 8000"),
    "lengths": (
        ["--input", "dry.wav", "--target", "short.wav"],
        "--target: short.wav has 500 samples, expected 8000",
    ),
    "stereo": (
        ["--input", "stereo.wav", "--target", "wet.wav"],
        "--input: stereo.wav has 2 channels, expected one",
    ),
    "empty": (["--input", "empty.wav", "--target", "wet.wav"], "--input: empty.wav has no samples"),
    "text": (["--input", "text.wav", "--target", "wet.wav"], "--input: text.wav is no WAV file"),
    "nothing": (["--input", "nothing.wav", "--target", "wet.wav"], "--input: nothing.wav is no WAV file"),
    "half": (
        ["--input", "half.wav", "--target", "wet.wav"],
        "--input: half.wav is no WAV file, or one that breaks",
    ),
    "most": (
        ["--input", "most.wav", "--target", "wet.wav"],
        "--input: most.wav is no WAV file, or one that breaks",
    ),
    "bare": (["--input", "bare.wav", "--target", "wet.wav"], "--input: bare.wav is no WAV file"),
    "absent": (["--input", "x.wav", "--target", "wet.wav"], "--input: cannot read x.wav: No such file"),
    "nan": (["--input", "dry.wav", "--target", "nan.wav"], "--target: nan.wav has samples that are no finite"),
    "silent": (
        ["--input", "dry.wav", "--target", "silent.wav"],
        "--target: is silent, expected something to learn",
    ),
    "too long": (
        ["--input", "short.wav", "--target", "short.wav"],
        "--length: got 512, expected at most 272, for there are 400 samples to learn from",
    ),
    "no sound": (["--checkpoint", "good.pt"], "--checkpoint: got one without --apply, expected a WAV file"),
    "no model": (
        ["--checkpoint", "dry.wav", "--apply", "dry.wav"],
        "--checkpoint: dry.wav is damaged, or no model",
    ),
    "apply": (["--apply", "text.wav"], "--apply: text.wav is no WAV file"),
    "its rate": (
        ["--apply", "fast.wav"],
        "--apply: fast.wav has 16000 Hz, expected 44100 as what is learned",
    ),
    "block": (["--block", "0"], "--block: got 0, expected at least 1"),
}


@pytest.mark.parametrize("which", WRONG)
def test_a_mistake_gets_one_clear_line(which, files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(files)
    monkeypatch.setattr(amplifier.Amplifier, "trainer", lambda self: pytest.fail("it has begun to train"))
    arguments, message = WRONG[which]
    assert main(["example", "amplifier", *arguments, "--output", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"rnnfast example amplifier: {message}")
    assert err.count("\n") == 1


def test_it_learns_and_streams_what_the_whole_gives(tmp_path):
    result = Amplifier(**QUICK, output=tmp_path, block=37).run()
    assert result.ok
    errors = result.data["error to signal"]
    assert errors["model"] < 0.8 * errors["unfiltered"]
    assert errors["best linear filter"] < errors["unfiltered"]
    assert result.data["streamed and whole apart"] == 0
    assert "the same bits" in result.summary
    assert result.data["budget us"] == pytest.approx(37 / 44_100 * 1e6)
    assert 0 < result.data["median us"] <= result.data["p99 us"]
    signals = {name: wav.read("", tmp_path / f"{name}.wav")[0] for name in ("dry", "target", "filtered")}
    error = amplifier.error_to_signal(signals["filtered"], signals["target"])
    assert error == pytest.approx(errors["model"], rel=1e-5)
    figure = result.figures["amplifier"]()
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
    # The model that it left filters likewise, whatever the blocks.
    again = Amplifier(
        checkpoint=tmp_path / "model.pt", apply=tmp_path / "dry.wav", output=tmp_path / "again", block=1000
    ).run()
    assert torch.equal(wav.read("", tmp_path / "again" / "filtered.wav")[0], signals["filtered"])
    assert not (tmp_path / "again" / "target.wav").exists()
    assert "error to signal" not in again.data


def test_a_pair_of_recordings(files, tmp_path):
    pair = dict(input=files / "dry.wav", target=files / "wet.wav")
    settings = QUICK | dict(output=tmp_path, cell="gru", steps=5)
    result = Amplifier(**settings, **pair, apply=files / "short.wav", block=1).run()
    assert result.data["samples a second"] == RATE
    assert wav.read("", tmp_path / "filtered.wav")[0].shape == (500,)
    assert result.data["streamed and whole apart"] == 0
    assert result.json()
    with pytest.raises(
        UserError, match=r"--apply: .*fast.wav has 16000 Hz, expected 8000 as what is learned from"
    ):
        Amplifier(checkpoint=tmp_path / "model.pt", apply=files / "fast.wav").run()


def test_pieces_and_their_loss():
    pair = Pair(torch.randn(2000), torch.randn(2000), RATE)
    train, held_out = pair.split(0.75)
    assert torch.equal(torch.cat((train.wet, held_out.wet)), pair.wet)
    task = AmplifierTask(StreamingFilter(4), train, held_out, 6, 50, seed=3)
    dry, wet = task.batch(7)
    assert torch.equal(task.batch(7)[0], dry)
    assert not torch.equal(task.batch(8)[0], dry)
    assert dry.shape == wet.shape == (6, amplifier.WARM_UP + 50)
    windows = train.dry.unfold(0, dry.size(1), 1)
    at = (windows[:, None] == dry).all(-1).float().argmax(0)
    assert torch.equal(windows[at], dry)
    assert torch.equal(train.wet.unfold(0, dry.size(1), 1)[at], wet)

    class Off(nn.Module):
        def forward(self, samples):
            return wet + torch.where(torch.arange(samples.size(1)) < amplifier.WARM_UP, 100.0, 1.0), None

    total, count = task.loss(Off(), (dry, wet))
    power = (train.wet[1:] - 0.85 * train.wet[:-1]).square().mean()
    assert count == 6 * 49
    assert total.item() == pytest.approx(count * 0.15**2 / power.item(), rel=1e-3)
    nothing = AmplifierTask(StreamingFilter(4), train, Pair(held_out.dry, held_out.dry, RATE), 6, 50, seed=3)
    with torch.no_grad():
        nothing.model.readout.weight.zero_()
        nothing.model.readout.bias.fill_(0.5)
    expected = 0.25 / held_out.dry.square().mean().item()
    assert nothing.evaluate()["error"] == pytest.approx(expected, rel=1e-4)


def test_the_signal_that_it_makes():
    dry = overdrive.plucks(1.0, 44_100, torch.Generator().manual_seed(5))
    assert dry.shape == (44_100,)
    assert 0.05 < dry.abs().max() <= 1
    wet = overdrive.overdrive(dry, 44_100)
    assert 0.1 < wet.abs().max() < 2
    cut = dry.clone()
    cut[30_000:] = 0
    again = overdrive.overdrive(cut, 44_100)
    assert torch.equal(again[:30_000], wet[:30_000])  # it does not look ahead
    assert again[30_000:30_010].any()  # and remembers
    louder = overdrive.overdrive(2 * dry, 44_100)
    assert amplifier.error_to_signal(louder, 2 * wet) > 0.02  # it is not linear


def test_the_best_linear_filter_is_found():
    signal, response = torch.randn(3000), torch.tensor([0.5, -0.3, 0.0, 0.2])
    filtered = overdrive.convolved(signal, response)
    assert filtered[10].item() == pytest.approx((response.flip(0) * signal[7:11]).sum().item(), abs=1e-5)
    torch.testing.assert_close(overdrive.best_linear(signal, filtered, 4), response, rtol=0, atol=5e-3)


def test_times_and_their_budget():
    found = amplifier.in_time([1e-4] * 98 + [2e-4, 3e-3], 1e-3)
    assert found["late"] == pytest.approx(0.01)
    assert found["median us"] == pytest.approx(100)
    assert found["p99 us"] == pytest.approx(200)
    assert found["mean us"] == pytest.approx(130)
    assert found["times real time"] == pytest.approx(1e-3 / 1.3e-4)


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.signal", None)
    with pytest.raises(UserError, match=r"pip install 'rnnfast\[recipes\]'"):
        Amplifier().run()


@pytest.mark.slow
def test_an_amplifier_is_learned():
    seed = random.randrange(1000)
    result = Amplifier(seed=seed).run()
    print(f"seed {seed}:", result.summary)
    errors = result.data["error to signal"]
    assert errors["model"] < 0.05
    assert errors["best linear filter"] > 3 * errors["model"]
    assert result.data["streamed and whole apart"] == 0
