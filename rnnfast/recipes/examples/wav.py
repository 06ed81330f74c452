"""WAV files of one channel."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import torch
from torch import Tensor

from ..._program import UserError, needs, whole_file


def read(option: str, path: Path) -> tuple[Tensor, int]:
    """Samples (T,), float32 from -1 to 1, and how many of them there are in a second.

    Args:
        option: of the command line, which named the file.

    Raises:
        UserError: for a file that cannot be read or is no WAV file, stereo, or without samples.
    """
    wavfile, numpy = needs("scipy.io.wavfile", "recipes"), needs("numpy", "recipes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks that hold no samples
            warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
            rate, samples = wavfile.read(path)
    except OSError as error:
        raise UserError(f"{option}: cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError, struct.error, UnboundLocalError, wavfile.WavFileWarning):
        raise UserError(f"{option}: {path} is no WAV file, or one that breaks off") from None
    if samples.ndim != 1:
        raise UserError(f"{option}: {path} has {samples.shape[1]} channels, expected one (mono)")
    if len(samples) == 0:
        raise UserError(f"{option}: {path} has no samples")
    if samples.dtype == numpy.uint8:
        samples = (samples.astype(numpy.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples.astype(numpy.float64) / -float(numpy.iinfo(samples.dtype).min)
    found = torch.from_numpy(samples.astype(numpy.float32))
    if not found.isfinite().all():
        raise UserError(f"{option}: {path} has samples that are no finite numbers")
    return found, int(rate)


def write(path: Path, samples: Tensor, rate: int) -> None:
    """Writes samples (T,) as they are, in float32.

    Raises:
        UserError: if the folder cannot be written to.
    """
    with whole_file(path) as unfinished:
        needs("scipy.io.wavfile", "recipes").write(unfinished, rate, samples.float().numpy())


__all__ = ["read", "write"]
