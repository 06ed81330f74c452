"""Chorales as frames of notes: read, transposed, and written as MIDI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._program import UserError, needs

FILE = "JSB_Chorales.mat"
NOTES = 88  # of a frame
# Of them, as MIDI numbers notes. By a piano's keys it would be 21, and half of all basses above 63: the published
# arrays are an octave higher than chorales are sung.
LOWEST = 9
NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
TICKS = 480  # of a quarter note, which is a frame
TEMPO = 700_000  # microseconds of a quarter note
VELOCITY = 70


def read(path: Path) -> dict[str, list[Tensor]]:
    """The chorales of each part, ``"train"``, ``"valid"`` and ``"test"``: frames (T, 88), 1 where a note sounds.

    Raises:
        UserError: if the file is not such a one.
    """
    scipy: Any = needs("scipy.io", "recipes")
    try:
        content = scipy.loadmat(path)
        parts = {part: list(content[f"{part}data"][0]) for part in ("train", "valid", "test")}
        found = {part: [torch.from_numpy(c).float() for c in chorales] for part, chorales in parts.items()}
    except Exception as error:  # of whatever kind the parser of a binary format raises
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"data: {path} holds no chorales: {line}") from None
    for part, chorales in found.items():
        if not chorales or any(c.dim() != 2 or c.size(1) != NOTES or len(c) < 2 for c in chorales):
            raise UserError(f"data: {path}: {part}: expected arrays of (T, {NOTES}) with T at least 2")
    return found


def transposed(frames: Tensor, by: int) -> Tensor:
    """Frames (T, 88), all notes higher by semitones; unchanged where a note would leave the keyboard."""
    moved = frames.roll(by, 1)
    lost = frames[:, NOTES - by :] if by > 0 else frames[:, : max(0, -by)]
    return frames if bool(lost.any()) else moved


def notes(frame: Tensor) -> list[int]:
    """MIDI's numbers of the notes of a frame (88,), the lowest first."""
    return [LOWEST + i for i in frame.nonzero().flatten().tolist()]


def frames_of(chords: list[list[int]]) -> Tensor:
    """Frames (T, 88) of chords, given as MIDI's numbers; notes beyond these are left out."""
    frames = torch.zeros(len(chords), NOTES)
    for t, chord in enumerate(chords):
        for note in chord:
            if 0 <= note - LOWEST < NOTES:
                frames[t, note - LOWEST] = 1
    return frames


def name(note: int) -> str:
    """Of a note, such as C4 for 60."""
    return f"{NAMES[note % 12]}{note // 12 - 1}"


def write_midi(frames: Tensor, path: Path) -> None:
    """Writes frames (T, 88) as MIDI, a quarter note each; a note that goes on is held."""
    mido: Any = needs("mido", "recipes")
    track = mido.MidiTrack()
    track.append(mido.MetaMessage("set_tempo", tempo=TEMPO))
    silence = torch.zeros(1, NOTES)
    wait = 0
    for before, now in zip(torch.cat([silence, frames]), torch.cat([frames, silence]), strict=True):
        for kind, changed in (("note_off", before > now), ("note_on", now > before)):
            for note in notes(changed):
                track.append(mido.Message(kind, note=note, velocity=VELOCITY, time=wait))
                wait = 0
        wait += TICKS
    file = mido.MidiFile(ticks_per_beat=TICKS)
    file.tracks.append(track)
    file.save(str(path))


def read_midi(path: Path) -> Tensor:
    """Frames (T, 88) of a MIDI file: what sounds in the middle of each quarter note.

    Raises:
        UserError: if it is no MIDI file, or holds no notes.
    """
    mido: Any = needs("mido", "recipes")
    try:
        file = mido.MidiFile(str(path))
        messages = list(mido.merge_tracks(file.tracks))
    except Exception as error:  # mido raises EOFError, OSError, ValueError, KeyError and more
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"INPUT: {path} is no MIDI file: {line}") from None
    now, sounding, spans = 0.0, dict[int, float](), []
    for message in messages:
        now += message.time / file.ticks_per_beat
        if message.type not in ("note_on", "note_off"):
            continue
        if message.note in sounding:
            spans.append((message.note, sounding.pop(message.note), now))
        if message.type == "note_on" and message.velocity > 0:
            sounding[message.note] = now
    if not spans:
        raise UserError(f"INPUT: {path} holds no notes")
    end = max(last for _, _, last in spans)
    middles = [t + 0.5 for t in range(max(1, round(end)))]
    return frames_of([[n for n, first, last in spans if first <= t < last] for t in middles])


__all__ = [
    "FILE",
    "LOWEST",
    "NOTES",
    "frames_of",
    "name",
    "notes",
    "read",
    "read_midi",
    "transposed",
    "write_midi",
]
