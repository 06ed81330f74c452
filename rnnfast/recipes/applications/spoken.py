"""Recordings of spoken digits: read, split, and joined into strings."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._program import UserError
from . import sound
from .recognizer import steps_for
from .sound import HOP, RATE

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAME = re.compile(r"([0-9])_([^_]+)_([0-9]+)\.[^.]+")
# By index of a recording: the test part is the data set's own, the others are ours.
TEST, DEV = 5, 10
PAUSE = 0.3  # seconds before, between and after digits at most
NONE = 0.2  # share of pauses that are left out
SLOWEST, FASTEST = 0.85, 1.15
LOUDEST, FAINTEST = 15, 60  # decibels by which noise is below the speech
GAIN = 6.0  # decibels


@dataclass(frozen=True)
class Clip:
    """A digit, spoken by someone.

    Args:
        samples: (S,) at 8 kHz; floor: root mean square where it is quietest.
        index: number among those of digit and speaker.
    """

    samples: Tensor
    floor: float
    digit: int
    speaker: str
    index: int


@dataclass(frozen=True)
class Spoken:
    """Digits spoken one after another.

    Args:
        samples: (S,) at 8 kHz.
        text: the words; times: begin and end of each in seconds.
    """

    samples: Tensor
    text: str
    times: list[tuple[float, float]]


def read(files: dict[str, Path]) -> list[Clip]:
    """Recordings, named ``digit_speaker_index`` and a suffix.

    Raises:
        UserError: for a file of another name or without sound, or one too short for its word.
    """
    clips = []
    for path in files.values():
        name = NAME.fullmatch(path.name)
        if name is None:
            raise UserError(f"data: {path}: expected a name such as 7_jackson_32.wav (digit, speaker, index)")
        samples, digit = sound.read(path, "data"), int(name[1])
        least = int(2 * HOP * (steps_for(WORDS[digit]) + 1) * FASTEST)
        if len(samples) < least:
            lasts, needed = len(samples) / RATE, least / RATE
            raise UserError(f"data: {path} lasts {lasts:.3f} s, too short for {WORDS[digit]!r} ({needed:.3f} s)")
        clips.append(Clip(samples, floor(samples), digit, name[2], int(name[3])))
    return clips


def floor(samples: Tensor) -> float:
    """Root mean square of the quietest tenth of a recording, in pieces of 5 ms."""
    power = samples[: len(samples) // 40 * 40].view(-1, 40).square().mean(1)
    return float(power.quantile(0.1).sqrt())


def split(clips: list[Clip], held_out: str | None) -> tuple[list[Clip], list[Clip], list[Clip]]:
    """Recordings to train on, to look at meanwhile, and held out: by index, or all of a speaker's.

    Raises:
        UserError: for a speaker that there is not, or a part that is empty.
    """
    speakers = sorted({clip.speaker for clip in clips})
    if held_out is not None and held_out not in speakers:
        raise UserError(f"--held-out: got {held_out}, expected one of {', '.join(speakers)}")
    others = [clip for clip in clips if clip.speaker != held_out]
    train = [clip for clip in others if clip.index >= DEV]
    dev = [clip for clip in others if TEST <= clip.index < DEV]
    test = [clip for clip in clips if (clip.index < TEST if held_out is None else clip.speaker == held_out)]
    for name, part in (("to train on", train), ("to look at meanwhile", dev), ("to test with", test)):
        if not part:
            raise UserError(
                f"data: no recordings {name}; indices below {TEST} are held out, those below {DEV} looked at"
            )
    return train, dev, test


def by_speaker(clips: list[Clip]) -> list[list[Clip]]:
    """The recordings of each speaker."""
    found: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        found[clip.speaker].append(clip)
    return list(found.values())


def joined(clips: list[Clip], random: torch.Generator, varied: bool = False) -> Spoken:
    """Recordings one after another, with pauses of random lengths in which there is noise as loud as theirs.

    Args:
        varied: whether each is louder or quieter by up to 6 dB, and the noise of pauses fainter, or none.
    """
    drawn = (torch.rand(len(clips) + 1, generator=random) - NONE).clamp(min=0) / (1 - NONE)
    pauses = (drawn * PAUSE * RATE).int().tolist()
    decibels, rustle = torch.zeros(len(clips)), 1.0
    if varied:
        decibels = GAIN * (2 * torch.rand(len(clips), generator=random) - 1)
        rustle = max(0.0, 1.25 * float(torch.rand((), generator=random)) - 0.25)
    parts, times, place = [], [], 0
    for clip, pause, gain in zip(clips, pauses, (10 ** (decibels / 20)).tolist(), strict=False):
        noise = torch.randn(pause, generator=random) * (rustle * gain * clip.floor)
        parts += [noise, clip.samples * gain]
        place += pause
        times.append((place / RATE, (place + len(clip.samples)) / RATE))
        place += len(clip.samples)
    parts.append(torch.randn(pauses[-1], generator=random) * (rustle * clips[-1].floor))
    return Spoken(torch.cat(parts), " ".join(WORDS[clip.digit] for clip in clips), times)


def strings(clips: list[Clip], random: torch.Generator, rounds: int = 1) -> list[Spoken]:
    """Strings of 3 to 7 digits of one speaker each, in which each recording occurs as often as there are rounds.

    What is left over at the end of a speaker's round is a string of its own, of fewer digits.
    """
    found = []
    for own in by_speaker(clips):
        for _ in range(rounds):
            left = [own[i] for i in torch.randperm(len(own), generator=random).tolist()]
            while left:
                for length in (3 + torch.randperm(5, generator=random)).tolist():
                    if left:
                        found.append(joined(left[:length], random))
                        left = left[length:]
    return found


def augmented(samples: Tensor, random: torch.Generator) -> Tensor:
    """Samples played faster or slower, with noise.

    (Ko et al., "Audio augmentation for speech recognition", Interspeech 2015.) The noise is white.
    """
    speed, below = torch.rand(2, generator=random).tolist()
    length = int(len(samples) / (SLOWEST + (FASTEST - SLOWEST) * speed))
    found = F.interpolate(samples.view(1, 1, -1), length, mode="linear").flatten()
    level = found.square().mean().sqrt() * 10 ** (-(LOUDEST + (FAINTEST - LOUDEST) * below) / 20)
    return found + level * torch.randn(length, generator=random)


def batch(recordings: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Features (B, T, MELS) of recordings, and lengths (B,)."""
    samples = torch.nn.utils.rnn.pad_sequence(recordings, batch_first=True)
    return sound.log_mel(samples, torch.tensor([len(row) for row in recordings]))


__all__ = ["WORDS", "Clip", "Spoken", "augmented", "batch", "by_speaker", "joined", "read", "split", "strings"]
