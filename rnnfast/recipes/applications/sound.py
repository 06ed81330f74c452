"""Sound files as samples, and samples as what an ear would make of them: a log-mel spectrogram."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._program import UserError, needs

RATE = 8000  # samples of a second: all that is heard lies below 4 kHz
WINDOW, HOP = 256, 80  # samples: 32 ms, every 10 ms
MELS = 40
SHORTEST, LONGEST = 0.1, 300.0  # seconds of a recording
LOWEST_RATE, HIGHEST_RATE = 4000, 384_000
# Of power, beside that of the loudest sample: 60 dB below it nothing is heard any more.
FLOOR = 1e-6
MIDDLE, SPREAD = -2.0, 3.0  # about the mean of log-mel values, and about their standard deviation


def read(path: Path, option: str) -> Tensor:
    """A recording's samples (S,), float32, at 8 kHz: several channels mixed, other rates resampled.

    Formats are those of libsndfile (WAV, FLAC, OGG, MP3 and more); resampling is scipy's polyphase filter.

    Args:
        option: that named the file.

    Raises:
        UserError: for a file that cannot be read, is no sound file, is shorter or longer than is taken, or has a
            rate or samples that no recording of speech has.
    """
    soundfile: Any = needs("soundfile", "recipes")
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{option}: cannot read {path}: {error.strerror or error}") from None
    try:
        with soundfile.SoundFile(str(path)) as file:
            rate, length = file.samplerate, len(file)
            _check(rate, length, f"{option}: {path}")
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: of .raw, which tells no rate
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{option}: {path} is no sound file: {line}") from None
    _check(rate, len(samples), f"{option}: {path}")  # a damaged file has fewer samples than it tells
    found = torch.from_numpy(samples).mean(1)
    if not bool(found.isfinite().all()):
        raise UserError(f"{option}: {path} has samples that are no finite numbers")
    return resampled(found, rate)


def _check(rate: int, length: int, where: str) -> None:
    """That samples of this rate and number are a recording."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise UserError(f"{where}: {rate} samples a second, expected {LOWEST_RATE} to {HIGHEST_RATE}")
    if length == 0:
        raise UserError(f"{where} has no samples")
    seconds = length / rate
    if not SHORTEST <= seconds <= LONGEST:
        raise UserError(f"{where} lasts {seconds:.3g} s, expected {SHORTEST:g} to {LONGEST:g} s")


def resampled(samples: Tensor, rate: int) -> Tensor:
    """Samples (S,) of any rate at 8 kHz."""
    if rate == RATE:
        return samples
    signal: Any = needs("scipy.signal", "recipes")
    common = math.gcd(rate, RATE)
    return torch.from_numpy(signal.resample_poly(samples.numpy(), RATE // common, rate // common)).float()


def frames_of(samples: Tensor) -> Tensor:
    """How many frames there are of so many samples."""
    return ((samples - WINDOW).div(HOP, rounding_mode="floor") + 1).clamp(min=0)


@cache
def mel_filters() -> Tensor:
    r"""How each bin of the spectrum counts for each band, (1 + WINDOW / 2, MELS): triangles, equally wide in mel.

    .. math::
        m = 2595 \log_{10}(1 + f / 700)

    (O'Shaughnessy, "Speech communication", 1987, as HTK has it. torchaudio has such filters too, but its wheels
    fit one version of torch and one of CUDA each, and do not load beside others.)
    """
    highest = 2595 * math.log10(1 + RATE / 2 / 700)
    mel = torch.linspace(0, highest, MELS + 2, dtype=torch.float64)
    hertz = 700 * (10 ** (mel / 2595) - 1)
    bins = torch.linspace(0, RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins - hertz[:-2]) / (hertz[1:-1] - hertz[:-2])
    falling = (hertz[2:] - bins) / (hertz[2:] - hertz[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


def log_mel(samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The logarithms of the power in bands of frequency, alike for recordings of any loudness.

    What is taken away is the same for all. A mean over a recording's own frames would be, where these are the few
    of one word, mostly that word.

    Shapes:
        * samples: (B, S), zero beyond lengths (B,), each at least WINDOW.
        * results: (B, T, MELS), zero beyond lengths, and those, (B,).
    """
    loudest = samples.abs().amax(1, keepdim=True).clamp(min=1e-8)
    window = torch.hann_window(WINDOW, device=samples.device)
    spectrum = torch.stft(
        samples / loudest, WINDOW, HOP, window=window, center=False, return_complex=True
    )  # (B, bins, T)
    power = (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2)
    found = torch.log(power @ mel_filters().to(samples.device) + FLOOR * WINDOW)
    frames = frames_of(lengths)
    there = torch.arange(found.size(1), device=found.device) < frames.unsqueeze(1)
    return ((found - MIDDLE) / SPREAD).masked_fill(~there.unsqueeze(2), 0.0), frames


__all__ = [
    "HOP",
    "LONGEST",
    "MELS",
    "RATE",
    "SHORTEST",
    "WINDOW",
    "frames_of",
    "log_mel",
    "mel_filters",
    "read",
    "resampled",
]
