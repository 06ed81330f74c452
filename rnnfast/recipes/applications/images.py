"""Images with captions: a user's files, read and split, and images as a network takes them."""

from __future__ import annotations

import csv
import io
import random
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..._program import UserError, needs, read_text
from .application import is_file
from .references import streams

if TYPE_CHECKING:
    from PIL.Image import Image

FILE, CAPTION = "file", "caption"
SEPARATORS = ("\t", ";", ",")
COLUMNS = f"columns {FILE} and {CAPTION}, separated by commas, semicolons or tabs"
LEAST = 3  # images: one for each part
HELD_OUT = 10  # of so many images one is held out, and one to choose by
WORD = re.compile(r"\w+(?:[-'\u2019]\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Captioned:
    """Images (N, C, S, S) uint8, and the captions of each, one or more."""

    images: Tensor
    captions: list[list[str]]

    def __len__(self) -> int:
        return len(self.images)

    def rows(self) -> list[tuple[int, str]]:
        """Each caption, with the place of its image."""
        return [(image, caption) for image, captions in enumerate(self.captions) for caption in captions]


def words_of(caption: str) -> list[str]:
    """Words and signs, in lower case.

    Example:
        >>> words_of("A dog's ball, well-worn.")
        ['a', "dog's", 'ball', ',', 'well-worn', '.']
    """
    return WORD.findall(caption.lower())


def read(folder: Path, file: Path, *, size: int, channels: int, seed: int) -> list[Captioned]:
    """A user's images in three parts: to train on, to choose by (a tenth), held out (a tenth).

    An image is in one of the parts, with all the captions that it has.

    Args:
        folder: has the images; file: names them and has their captions, see :func:`read_captions`.
        size, channels: see :func:`read_image`.
        seed: of the split.

    Raises:
        UserError: for a file that cannot be used, with its line.
    """
    try:
        empty = folder.is_dir() and not any(folder.iterdir())
    except OSError as error:
        raise UserError(f"--images: cannot read {folder}: {error.strerror}") from None
    if empty or not folder.is_dir():
        raise UserError(f"--images: {folder} is {'empty' if empty else 'no folder'}")
    found = read_captions(file)
    if len(found) < LEAST:
        raise UserError(
            f"--captions: {file} names {len(found)} image{'s' * (len(found) > 1)}, "
            f"expected at least {LEAST}: to train on, to choose by and to hold out"
        )
    images = {}
    for name, (line, _) in found.items():
        where = f"--captions: {file}, line {line}"
        if not is_file(str(folder / name)):
            raise UserError(f"{where}: {folder} has no file {name!r}")
        images[name] = read_image(folder / name, size, channels, where)
    names = random.Random(seed).sample(list(found), len(found))
    apart = max(1, len(names) // HELD_OUT)
    parts = names[2 * apart :], names[:apart], names[apart : 2 * apart]
    return [Captioned(torch.stack([images[n] for n in p]), [found[n][1] for n in p]) for p in parts]


def read_captions(path: Path) -> dict[str, tuple[int, list[str]]]:
    """For each image that a CSV or TSV file names, the first line that names it, and its captions.

    The first line has the names of the columns, of which *file* and *caption* are used.

    Raises:
        UserError: for a file that has not these columns, or a line without a file or a caption.
    """
    text = read_text(path, "--captions").removeprefix("\ufeff")
    separator = next((s for s in SEPARATORS if s in text.partition("\n")[0]), ",")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    found: dict[str, tuple[int, list[str]]] = {}
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        if FILE not in header or CAPTION not in header:
            got = f"columns {', '.join(header)}" if header else "nothing"
            raise UserError(f"--captions: {path}, line 1: got {got}, expected {COLUMNS}")
        for row in rows:
            if any(value.strip() for value in row):
                name, caption = _fields(row, header, f"--captions: {path}, line {rows.line_num}")
                found.setdefault(name, (rows.line_num, []))[1].append(" ".join(words_of(caption)))
    except csv.Error as error:
        raise UserError(f"--captions: {path}, line {rows.line_num}: {error}") from None
    if not found:
        raise UserError(f"--captions: {path} holds no captions")
    return found


def _fields(row: list[str], header: list[str], where: str) -> list[str]:
    """The file and the caption of a line."""
    if len(row) != len(header):
        hint = (
            "" if len(row) < len(header) else " (a caption that has the separator in it goes in quotation marks)"
        )
        raise UserError(f"{where}: got {len(row)} values, expected {len(header)}{hint}")
    found = [row[header.index(column)].strip() for column in (FILE, CAPTION)]
    for column, value in zip((FILE, CAPTION), found, strict=True):
        if not value:
            raise UserError(f"{where}: no {column}")
    return found


def read_image(path: Path, size: int, channels: int, where: str) -> Tensor:
    """An image of any size and kind as (C, S, S) uint8, stretched to a square; what is transparent becomes white.

    Args:
        size: S; channels: 1 for grey, 3 for red, green and blue.
        where: the option or line that names the file, for errors.

    Raises:
        UserError: if pillow cannot read it.
    """
    pillow: Any = needs("PIL.Image", "recipes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with pillow.open(path) as file:
                image = _plain(file).convert("L" if channels == 1 else "RGB")
    except pillow.UnidentifiedImageError:
        raise UserError(f"{where}: {path} is no image that pillow can read") from None
    except Exception as error:  # of whatever kind the readers of many formats raise
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{where}: {path} cannot be read as an image: {line}") from None
    smaller = min(image.size) >= size
    image = image.resize((size, size), pillow.Resampling.BOX if smaller else pillow.Resampling.BILINEAR)
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(size, size, -1).permute(2, 0, 1)


def _plain(image: Image) -> Image:
    """Turned as its camera says, opaque, with 8 bits for each channel."""
    pillow: Any = needs("PIL.Image", "recipes")
    image = needs("PIL.ImageOps", "recipes").exif_transpose(image)
    if image.mode[0] in "IF":  # 16 or 32 bits, of which pillow would cut off what is above 255
        numpy: Any = needs("numpy", "recipes")
        values = numpy.nan_to_num(numpy.asarray(image, dtype="float64"))
        scale = 257 if values.max() > 255 else 1
        return pillow.fromarray((values / scale).clip(0, 255).round().astype("uint8"))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return pillow.alpha_composite(pillow.new("RGBA", image.size, "white"), image)
    return image


def write_image(image: Tensor, enlarged: int, path: Path) -> None:
    """Writes (C, S, S) uint8 as a file, each pixel as a square of so many."""
    pillow: Any = needs("PIL.Image", "recipes")
    values = image.permute(1, 2, 0).contiguous()
    mode = "L" if values.size(2) == 1 else "RGB"
    small = pillow.frombytes(mode, (values.size(1), values.size(0)), bytes(values.flatten().tolist()))
    small.resize([enlarged * side for side in small.size], pillow.Resampling.NEAREST).save(path)


def scores(found: Sequence[str], truth: Sequence[Sequence[str]]) -> dict[str, float]:
    """Of captions: the share that is, to the word, one of those that the image has, and BLEU in percent.

    (Papineni et al., "BLEU: a method for automatic evaluation of machine translation", ACL 2002; by sacrebleu, on
    words as they are here.)
    """
    sacrebleu: Any = needs("sacrebleu", "recipes")
    bleu = sacrebleu.corpus_bleu(list(found), streams(truth), tokenize="none", force=True)
    exact = sum(caption in row for caption, row in zip(found, truth, strict=True)) / len(found)
    return {"exact": exact, "BLEU": float(bleu.score)}


__all__ = [
    "Captioned",
    "read",
    "read_captions",
    "read_image",
    "scores",
    "words_of",
    "write_image",
]
