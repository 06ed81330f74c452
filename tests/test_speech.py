"""Speech: sound files, strings of recordings, CTC's paths, and tones of our own that are learnt as words."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from published import looks_right

from rnnfast.__main__ import main
from rnnfast._program import UserError
from rnnfast.recipes.applications import sound, spoken
from rnnfast.recipes.applications.recognizer import (
    FIRST,
    STEP,
    SpeechModel,
    best_path,
    ctc,
    heard,
    steps_for,
)
from rnnfast.recipes.applications.sound import HOP, MELS, RATE, WINDOW
from rnnfast.recipes.applications.speech import LETTERS, Speech, SpeechTask, encoded, hide, nearest, rates
from rnnfast.recipes.applications.spoken import WORDS, Clip
from rnnfast.recipes.data import sum_of
from rnnfast.recipes.sets import SETS, DataSet, Members
from rnnfast.recipes.training import generator

pytest.importorskip("accelerate", reason="training needs accelerate")
pytest.importorskip("matplotlib", reason="figures need matplotlib")
pytest.importorskip("jiwer", reason="errors are counted by jiwer")
soundfile = pytest.importorskip("soundfile", reason="sound is read by soundfile")
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")

REAL = Path(os.environ.get("RNNFAST_DATA", "/nowhere"))
TONES = {1: (400, 900), 6: (1600, 700), 2: (2500, 3200)}  # hertz at the beginning and the end of a word


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def tone(digit, seconds=0.25, rate=RATE):
    """A sound that goes from one pitch to another."""
    t = torch.arange(int(seconds * rate)) / rate
    begin, end = TONES[digit]
    hertz = begin + (end - begin) * t / seconds / 2
    return 0.5 * torch.sin(2 * math.pi * hertz * t) * torch.sin(math.pi * t / seconds)


@pytest.fixture
def tones(monkeypatch, tmp_path):
    """Two who speak in tones, named as the published recordings are."""
    folder = tmp_path / "data" / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    for digit in TONES:
        for speaker, seconds in (("ada", 0.25), ("emil", 0.3)):
            for index in (0, 1, 5, 10, 11):
                samples = tone(digit, seconds + 0.01 * (index % 3))
                soundfile.write(folder / f"{digit}_{speaker}_{index}.wav", samples.numpy(), RATE)
    files = {f"recordings/{p.name}": p for p in sorted(folder.iterdir())}
    members = Members("recordings/*.wav", len(files), sum_of(files))
    monkeypatch.setitem(SETS, "fsdd", DataSet("a/b", "0" * 40, "", "ours", members=members))
    return tmp_path / "data"


TINY = dict(hidden_size=64, num_layers=1, cell="gru", dropout=0.0, mask=0, batch_size=8, rate=0.012)


def test_tones_are_learnt_and_written_down(tones, tmp_path, capsys):
    result = Speech(data=tones, output=tmp_path / "out", steps=360, **TINY).run()
    strings = result.data["strings"]
    assert strings["word error rate"] < 0.1
    assert strings["letter error rate"] <= strings["word error rate"]
    assert strings["strings right"] > 0.7
    assert strings["in their place"] > 0.9
    assert result.data["singles"]["nearest of ten"] > 0.9
    assert torch.tensor(result.data["confusion"]).sum(1)[[1, 2, 6]].tolist() == [4, 4, 4]
    assert looks_right(result)

    said = [6, 1, 2, 1]
    file, pause = tmp_path / "said.flac", torch.zeros(RATE // 10)
    parts = [part for digit in said for part in (pause, tone(digit))]
    soundfile.write(file, torch.cat([*parts, pause]).numpy(), RATE)
    answer = ["predict", "speech", str(file), "--checkpoint", str(tmp_path / "out" / "model.pt")]
    capsys.readouterr()
    assert main(answer) == 0
    assert capsys.readouterr().out == "six one two one\n"
    assert main([*answer, "--json", "--output", str(tmp_path / "heard")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"] == "six one two one"
    assert found["digits"] == said
    assert found["seconds"] == pytest.approx(1.5)
    for place, word in enumerate(found["words"]):
        begin = 0.1 + 0.35 * place
        assert begin < (word["begin"] + word["end"]) / 2 < begin + 0.25
    assert {path.name for path in (tmp_path / "heard").iterdir()} == {"results.json", "heard.png"}

    nothing = tmp_path / "nothing.wav"
    soundfile.write(nothing, torch.zeros(RATE).numpy(), RATE)
    assert main(["predict", "speech", str(nothing), *answer[3:]]) == 0
    assert capsys.readouterr().out == "no words\n"


def test_a_speaker_is_held_out(tones, tmp_path):
    clips = spoken.read(files_of(tones))
    train, dev, test = spoken.split(clips, "emil")
    assert {clip.speaker for clip in train + dev} == {"ada"}
    assert {clip.speaker for clip in test} == {"emil"}
    assert len(test) == 15
    train, dev, test = spoken.split(clips, None)
    assert [sorted({clip.index for clip in part}) for part in (train, dev, test)] == [[10, 11], [5], [0, 1]]
    with pytest.raises(UserError, match="--held-out: got otto, expected one of ada, emil"):
        Speech(data=tones, held_out="otto").run()


def files_of(folder):
    return {path.name: path for path in sorted((folder / "fsdd" / "recordings").iterdir())}


# Recordings and strings


def clips_of(count, speaker="ada"):
    return [Clip(torch.full((900 + i,), 0.1), 0.0, i % 10, speaker, i) for i in range(count)]


def test_each_recording_occurs_equally_often():
    clips = clips_of(23) + clips_of(60, "emil")
    found = spoken.strings(clips, generator(3, 0), rounds=2)
    words = " ".join(string.text for string in found).split()
    assert sorted(words) == sorted(WORDS[clip.digit] for clip in clips * 2)
    lengths = [len(string.text.split()) for string in found]
    assert max(lengths) == 7
    assert sum(length < 3 for length in lengths) <= 4  # what is left over of a round
    again = spoken.strings(clips, generator(3, 0), rounds=2)
    assert all(torch.equal(a.samples, b.samples) for a, b in zip(found, again, strict=True))
    assert [s.text for s in found] != [s.text for s in spoken.strings(clips, generator(4, 0), rounds=2)]


def test_recordings_lie_in_a_string_where_it_says():
    clips = clips_of(5)
    string = spoken.joined(clips, generator(0, 0))
    assert string.text == "zero one two three four"
    for clip, (begin, end) in zip(clips, string.times, strict=True):
        assert torch.equal(string.samples[round(begin * RATE) : round(end * RATE)], clip.samples)
    assert string.samples.count_nonzero() == sum(len(clip.samples) for clip in clips)
    louder = [
        float(s.samples.max()) for s in (spoken.joined(clips, generator(i, 0), varied=True) for i in range(9))
    ]
    assert 0.1 < max(louder) <= 0.1 * 10 ** (6 / 20) + 1e-6


def test_batches_depend_on_step_and_seed_and_leave_room_for_their_letters(tones):
    clips = spoken.read(files_of(tones))
    model = torch.nn.Linear(1, 1)
    task = SpeechTask(model, clips, [], batch_size=6, seed=1, mask=4)
    other = SpeechTask(model, clips, [], batch_size=6, seed=2, mask=4)
    for step in range(20):
        features, lengths, symbols, counts = task.batch(step)
        for a, b in zip(task.batch(step), (features, lengths, symbols, counts), strict=True):
            assert torch.equal(a, b)
        assert not torch.equal(other.batch(step)[1], lengths)
        assert features.shape == (6, int(lengths.max()), MELS)
        for row, count, length in zip(symbols, counts.tolist(), lengths.tolist(), strict=True):
            text = "".join(LETTERS[symbol - 1] for symbol in row[:count])
            assert set(text.split()) <= {"one", "two", "six"}
            assert steps_for(text) <= (length + 1) // 2


def test_augmented_sound_has_another_length_and_noise():
    samples = tone(1, 1.0)
    found = [spoken.augmented(samples, generator(0, i)) for i in range(20)]
    assert RATE**2 / max(map(len, found)) >= 0.85 * RATE
    assert RATE**2 / min(map(len, found)) <= 1.15 * RATE + 2
    assert len(set(map(len, found))) > 10
    levels = torch.stack([each.square().mean().sqrt() for each in found]) / samples.square().mean().sqrt()
    assert 0.9 < levels.min() < levels.max() < 1.2


def test_stripes_are_hidden():
    features, lengths = torch.ones(3, 50, MELS), torch.tensor([50, 30, 2])
    hide(features, lengths, 5, generator(0, 0))
    hidden = features == 0
    assert hidden.any()
    assert (hidden.all(1).sum(1) <= 10).all()
    assert (hidden.all(2).sum(1) <= 10).all()
    assert torch.equal(hidden, hidden.all(1, keepdim=True) | hidden.all(2, keepdim=True))
    assert not hidden[1:, 35:].all(2).any()


@pytest.mark.parametrize(
    ("name", "seconds", "message"),
    [
        ("one_ada_3.wav", 0.3, "expected a name such as 7_jackson_32.wav"),
        ("1_ada.wav", 0.3, "expected a name such as 7_jackson_32.wav"),
        ("3_ada_1.wav", 0.12, "lasts 0.120 s, too short for 'three' .0.161 s."),
    ],
)
def test_recordings_that_cannot_be_trained_on(name, seconds, message, tmp_path):
    soundfile.write(tmp_path / name, tone(1, seconds).numpy(), RATE)
    with pytest.raises(UserError, match=f"data: .*{name}:? {message}"):
        spoken.read({name: tmp_path / name})


def test_a_part_without_recordings():
    with pytest.raises(UserError, match="data: no recordings to look at meanwhile; indices below 5 are held out"):
        spoken.split([c for c in clips_of(60) if not 5 <= c.index < 10], None)


# Sound


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_recordings_of_any_rate_and_channels(rate, channels, tmp_path):
    samples = tone(1, 0.5, rate)
    file = tmp_path / "a.wav"
    soundfile.write(file, samples[:, None].expand(-1, channels).numpy(), rate, subtype="FLOAT")
    found = sound.read(file, "INPUT")
    assert abs(len(found) - 0.5 * RATE) <= 1
    assert found.dtype == torch.float32
    middle = slice(RATE // 10, 4 * RATE // 10)
    assert (found[middle] - tone(1, 0.5)[middle]).abs().max() < 0.02


def test_channels_are_mixed(tmp_path):
    samples = torch.stack([tone(1), torch.zeros(RATE // 4)], 1)
    soundfile.write(tmp_path / "a.wav", samples.numpy(), RATE, subtype="FLOAT")
    assert torch.equal(sound.read(tmp_path / "a.wav", "INPUT"), tone(1) / 2)


def test_a_tone_is_in_the_band_of_its_pitch():
    for hertz in (500, 1000, 2000, 3500):
        samples = torch.sin(2 * math.pi * hertz * torch.arange(RATE) / RATE)
        window = torch.hann_window(WINDOW)
        spectrum = torch.stft(samples, WINDOW, HOP, window=window, center=False, return_complex=True)
        bands = spectrum.abs().square().mean(1) @ sound.mel_filters()
        mel = 2595 * math.log10(1 + hertz / 700)
        spacing = 2595 * math.log10(1 + RATE / 2 / 700) / (MELS + 1)
        assert abs(int(bands.argmax()) + 1 - mel / spacing) < 0.7
    assert (sound.mel_filters().sum(0) > 0).all()


def test_features_are_those_of_each_recording_alone_and_of_any_loudness():
    recordings = [tone(1, 0.5) + 0.01 * torch.randn(RATE // 2), tone(6, 0.3)]
    features, lengths = spoken.batch(recordings)
    assert lengths.tolist() == [(4000 - WINDOW) // HOP + 1, (2400 - WINDOW) // HOP + 1]
    assert not features[1, lengths[1] :].any()
    for row, length, samples in zip(features, lengths.tolist(), recordings, strict=True):
        torch.testing.assert_close(row[:length], spoken.batch([samples])[0][0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(row[:length], spoken.batch([samples * 1e-3])[0][0], rtol=1e-3, atol=1e-3)


# CTC


def path(symbols):
    """Log-probabilities of a path that is nearly certain; a dot is the blank."""
    numbers = [0 if s == "." else 1 + LETTERS.index(s) for s in symbols]
    return torch.nn.functional.one_hot(torch.tensor(numbers), 1 + len(LETTERS)).float().mul(20).log_softmax(1)


@pytest.mark.parametrize(
    ("symbols", "words"),
    [
        ("..ooo.nn.e..  .t.wo", [("one", 2, 10), ("two", 15, 19)]),
        ("thre.e", [("three", 0, 6)]),
        ("three", [("thre", 0, 5)]),
        ("  . six .. ", [("six", 4, 7)]),
        ("...", []),
        ("", []),
    ],
)
def test_the_best_path_as_words(symbols, words):
    found = best_path(path(symbols), LETTERS) if symbols else best_path(torch.empty(0, 3), LETTERS)
    assert [word.text for word in found] == [text for text, _, _ in words]
    for word, (_, begin, end) in zip(found, words, strict=True):
        assert (word.begin, word.end) == pytest.approx((FIRST + begin * STEP, FIRST + end * STEP))


def test_how_many_steps_a_text_takes():
    for text, steps in (("six", 3), ("three", 6), ("three one", 10), ("", 0)):
        assert steps_for(text) == steps
        symbols, counts = encoded([text + "x"])
        for length in (steps_for(text + "x"), steps_for(text + "x") - 1):
            log_p = torch.zeros(1, length, 1 + len(LETTERS)).log_softmax(2) if length else None
            if log_p is not None:
                loss = ctc((log_p, torch.tensor([length])), symbols, counts)
                assert bool(loss.isfinite()) == (length == steps_for(text + "x"))


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("layers", ["rnnfast", "torch"])
@torch.no_grad()
def test_padding_has_no_influence(layers, bidirectional):
    model = SpeechModel(
        5, hidden_size=8, cell="lstm", num_layers=2, bidirectional=bidirectional, dropout=0.2, layers=layers
    ).eval()
    recordings = [torch.randn(n) for n in (4000, 2500, 1100)]
    together = heard(model, [spoken.batch(recordings)])
    for row, samples in zip(together, recordings, strict=True):
        (alone,) = heard(model, [spoken.batch([samples])])
        assert len(row) == ((len(samples) - WINDOW) // HOP + 2) // 2
        torch.testing.assert_close(row, alone, rtol=1e-3, atol=1e-4)
    if not bidirectional:  # what comes later is not heard: an answer could be given while it is spoken
        features, lengths = spoken.batch(recordings[:1])
        changed = features.clone()
        changed[:, 30:] += 1
        before, after = heard(model, [(features, lengths), (changed, lengths)])
        torch.testing.assert_close(before[:14], after[:14])
        assert not torch.allclose(before[15], after[15])


def test_errors_are_counted():
    found = rates(["one two", "six"], ["one too six", ""])
    assert found["word error rate"] == pytest.approx(3 / 3)
    assert rates(["one two"], ["one too"]) == {"word error rate": 0.5, "letter error rate": pytest.approx(1 / 7)}
    assert rates(["six"], ["six"]) == {"word error rate": 0.0, "letter error rate": 0.0}


def test_the_nearest_of_ten_words():
    assert nearest([path("..s.i.xx"), path("f.ou..r"), path("n.iie.n")]).tolist()[:2] == [6, 4]
    assert nearest([path("th.r.e")]).tolist() == [3]


# Files that are no recordings


def wrong(how, folder):
    file = folder / "a.wav"
    samples = tone(1).numpy()
    if how == "text":
        file.write_text("three one four")
    elif how == "empty":
        file.touch()
    elif how == "header alone":
        soundfile.write(file, samples[:0], RATE)
    elif how == "short":
        soundfile.write(file, samples[:400], RATE)
    elif how == "long":
        soundfile.write(file, tone(1, 301).numpy(), RATE)
    elif how == "slow":
        soundfile.write(file, samples, 100)
    elif how == "fast":
        soundfile.write(file, samples, 1_000_000)
    elif how in ("nan", "inf"):
        samples[3] = float(how)
        soundfile.write(file, samples, RATE, subtype="FLOAT")
    elif how == "folder":
        file.mkdir()
    elif how == "raw":
        file = folder / "a.raw"
        file.write_bytes(bytes(4000))
    elif how == "stdin":
        return "-"
    return str(file)


WRONG = {
    "missing": "is no file, expected a sound file",
    "folder": "is no file, expected a sound file",
    "stdin": "- is no file, expected a sound file",
    "text": "is no sound file: ",
    "empty": "is no sound file: ",
    "raw": "is no sound file: ",
    "header alone": "has no samples",
    "short": "lasts 0.05 s, expected 0.1 to 300 s",
    "long": "lasts 301 s, expected 0.1 to 300 s",
    "slow": ": 100 samples a second, expected 4000 to 384000",
    "fast": ": 1000000 samples a second, expected 4000 to 384000",
    "nan": "has samples that are no finite numbers",
    "inf": "has samples that are no finite numbers",
}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """The file of a model that has learnt nothing."""
    folder = tmp_path_factory.mktemp("untrained")
    program = Speech(output=folder, hidden_size=4)
    model = SpeechModel(
        1 + len(LETTERS), hidden_size=4, cell="lstm", num_layers=2, bidirectional=True, dropout=0, layers="torch"
    )
    program.save_model("speech", [model], letters=LETTERS)
    return folder / "model.pt"


@pytest.mark.parametrize("how", WRONG)
def test_a_file_that_is_no_recording(how, untrained, tmp_path, capsys):
    file = wrong(how, tmp_path)
    assert main(["predict", "speech", file, "--checkpoint", str(untrained)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"rnnfast predict speech: INPUT: {file}")
    assert WRONG[how] in err
    assert err.count("\n") == 1


def test_a_recording_as_short_as_is_taken(untrained, tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(1, 0.1).numpy(), RATE)
    assert main(["predict", "speech", str(tmp_path / "a.wav"), "--checkpoint", str(untrained)]) == 0


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "fsdd").is_dir(), reason="RNNFAST_DATA names no folder with fsdd/")
def test_spoken_digits_of_real_people():
    found = Speech().run().data
    assert found["strings"]["word error rate"] <= 0.04  # 0.027 where it was measured
    assert found["singles"]["nearest of ten"] >= found["published"]
