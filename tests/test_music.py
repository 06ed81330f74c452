"""Chorales: as frames and as MIDI, their likelihood, and tunes of our own that are learnt by heart."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from published import looks_right
from torch import nn

from rnnfast.__main__ import main
from rnnfast._program import UserError
from rnnfast.recipes.applications import chorales
from rnnfast.recipes.applications.chorales import LOWEST, NOTES, frames_of, notes
from rnnfast.recipes.applications.music import Music, MusicTask, NotesModel, PredictMusic, compose, silent
from rnnfast.recipes.data import sha256
from rnnfast.recipes.sets import SETS, DataSet

pytest.importorskip("accelerate", reason="training needs accelerate")
pytest.importorskip("matplotlib", reason="figures need matplotlib")
mido = pytest.importorskip("mido", reason="MIDI needs mido")
scipy_io = pytest.importorskip("scipy.io", reason="chorales are read by scipy")
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")

REAL = Path(os.environ.get("RNNFAST_DATA", "/nowhere"))
TUNE = [[48, 64, 67], [48, 64, 67], [53, 65, 69], [], [55, 62, 71, 74], [48, 64, 72]]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def random_frames(length):
    return (torch.rand(length, NOTES) < 0.05).float()


@pytest.fixture
def tunes(monkeypatch, tmp_path):
    """A tune that goes on and on, from each of its chords."""
    import numpy as np

    (tmp_path / "data" / "music").mkdir(parents=True)
    file = tmp_path / "data" / "music" / chorales.FILE
    content = {}
    for part, count in (("train", 8), ("valid", 3), ("test", 3)):
        content[f"{part}data"] = np.empty((1, count), dtype=object)
        for i in range(count):
            frames = frames_of((TUNE * 4)[i % len(TUNE) :][: 12 + i]).numpy().astype(np.uint8)
            content[f"{part}data"][0, i] = frames
    scipy_io.savemat(file, content)
    monkeypatch.setitem(SETS, "music", DataSet("a/b", "0" * 40, "", "ours", {chorales.FILE: sha256(file)}))
    return tmp_path / "data"


def test_a_tune_is_learnt_and_continued(tunes, tmp_path, capsys):
    program = Music(data=tunes, output=tmp_path / "out", hidden_size=24, epochs=80, rate=0.02, dropout=0.1)
    result = program.run()
    assert result.data["nats per frame"] < 1 < result.data["by frequency"] / 2
    assert result.data["published"] == 8.43
    assert looks_right(result)
    files = {path.name for path in result.save(tmp_path / "out")}
    assert files == {"results.json", "music.png", "chorale.mid"}
    assert chorales.read_midi(tmp_path / "out" / "chorale.mid").any()

    begin = tmp_path / "begin.mid"
    chorales.write_midi(frames_of(TUNE), begin)
    model = tmp_path / "out" / "model.pt"
    answer = ["predict", "music", str(begin), "--checkpoint", str(model), "--length", "6", "--temperature", "0.2"]
    capsys.readouterr()
    assert main([*answer, "--json", "--output", str(tmp_path / "answer")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["begin"] == TUNE
    hits = sum(len(set(a) & set(b)) for a, b in zip(found["added"], TUNE, strict=True))
    assert hits >= 0.8 * sum(map(len, TUNE))
    whole = chorales.read_midi(tmp_path / "answer" / "music.mid")
    assert [notes(frame) for frame in whole] == found["begin"] + found["added"]
    own = PredictMusic(checkpoint=model, length=3).run()
    assert own.data["begin"] == [notes(f) for f in frames_of(TUNE[:6] + TUNE[:2])]
    assert looks_right_without_settings(own)


def looks_right_without_settings(result):
    figure = result.figures["music"]()
    return bool(figure.axes[0].get_title() and figure.axes[0].get_xlabel())


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@torch.no_grad()
def test_the_likelihood_is_that_of_each_chorale_alone(cell):
    model = NotesModel(10, cell=cell, num_layers=2, dropout=0.4, layers="rnnfast").eval()
    found = [random_frames(length) for length in (9, 4, 2)]
    task = MusicTask(model, found, found, batch_size=2, seed=0, transpose=0)
    total = 0.0
    for frames in found:
        p = model(frames[None, :-1])[0][0].sigmoid().clamp(1e-7, 1 - 1e-7)
        x = frames[1:]
        total -= float((x * p.log() + (1 - x) * (1 - p).log()).sum())
    assert task.judge(found) == pytest.approx(total / (8 + 3 + 1), rel=1e-4)


def test_notes_by_their_frequency_alone():
    train, test = [torch.zeros(8, NOTES)], [torch.zeros(5, NOTES)]
    train[0][:4, 3] = 1
    test[0][1:, 3] = 1
    p, q = 4.5 / 9, 0.5 / 9
    assert silent(train, test) == pytest.approx(-math.log(p) - 87 * math.log(1 - q), rel=1e-4)


def test_batches_are_transposed_and_otherwise_the_chorales():
    found = [frames_of(TUNE * n) for n in (1, 2, 3)]
    task = MusicTask(nn.Linear(1, 1), found, found, batch_size=3, seed=0, transpose=4)
    seen = set()
    for step in range(12):
        frames, lengths = task.batch(step)
        assert torch.equal(frames, task.batch(step)[0])
        for row, length in zip(frames, lengths.tolist(), strict=True):
            assert not row[length:].any()
            by = notes(row[0])[0] - TUNE[0][0]
            seen.add(by)
            assert [notes(f) for f in row[:length]] == [[n + by for n in c] for c in TUNE * (length // len(TUNE))]
    assert len(seen) > 5
    assert max(map(abs, seen)) <= 4


def test_a_note_never_leaves_the_keyboard():
    frames = frames_of([[LOWEST], [LOWEST + NOTES - 1]])
    assert torch.equal(chorales.transposed(frames, 1), frames)
    assert torch.equal(chorales.transposed(frames, -1), frames)
    assert torch.equal(chorales.transposed(frames[:1], 2), frames_of([[LOWEST + 2]]))


def test_midi_there_and_back(tmp_path):
    frames = random_frames(30)
    frames[-1, 5] = 1
    chorales.write_midi(frames, tmp_path / "a.mid")
    assert torch.equal(chorales.read_midi(tmp_path / "a.mid"), frames)
    held = frames_of([[60], [60], [60]])
    chorales.write_midi(held, tmp_path / "b.mid")
    messages = [m for m in mido.MidiFile(tmp_path / "b.mid").tracks[0] if not m.is_meta]
    assert [(m.type, m.note, m.time) for m in messages] == [
        ("note_on", 60, 0),
        ("note_off", 60, 3 * chorales.TICKS),
    ]


def test_names_of_notes():
    assert [chorales.name(n) for n in (60, 61, 69, 21)] == ["C4", "C#4", "A4", "A0"]
    assert notes(frames_of([[9, 60, 96, 97, 8]])[0]) == [9, 60, 96]


def test_what_is_composed_has_one_to_four_voices():
    model = NotesModel(6, cell="gru", num_layers=1, dropout=0.0, layers="rnnfast").eval()
    for bias, voices in ((3.0, {4}), (-50.0, {1})):
        nn.init.constant_(model.readout.bias, bias)
        added = compose(model, random_frames(3), 20, 1.0, torch.Generator().manual_seed(0))
        assert set(added.sum(1).tolist()) == voices


def test_files_that_hold_no_music(tunes, tmp_path):
    Music(data=tunes, output=tmp_path / "out", hidden_size=4, epochs=1).run()
    model = tmp_path / "out" / "model.pt"
    for content, message in ((b"", "is no MIDI file"), (b"MThd\0\0", "is no MIDI file"), (b"song", "is no MIDI")):
        (tmp_path / "a.mid").write_bytes(content)
        with pytest.raises(UserError, match=f"INPUT: .*a.mid {message}") as error:
            PredictMusic(input=str(tmp_path / "a.mid"), checkpoint=model).run()
        assert "\n" not in str(error.value)
    mido.MidiFile(tracks=[mido.MidiTrack()]).save(tmp_path / "a.mid")
    with pytest.raises(UserError, match="holds no notes"):
        PredictMusic(input=str(tmp_path / "a.mid"), checkpoint=model).run()
    (tunes / "music" / chorales.FILE).write_bytes(b"no matrices")
    with pytest.raises(UserError, match="holds no chorales"):
        Music(data=tunes).run()
    scipy_io.savemat(tunes / "music" / chorales.FILE, {f"{p}data": [[[1]]] for p in ("train", "valid", "test")})
    with pytest.raises(UserError, match=r"train: expected arrays of \(T, 88\)"):
        Music(data=tunes).run()


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "music").is_dir(), reason="RNNFAST_DATA names no folder with music/")
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_the_likelihood_of_real_chorales(cell):
    result = Music(cell=cell).run()
    assert result.data["nats per frame"] <= result.data["published"]
