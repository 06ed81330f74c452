"""Checkpoints of a run in training: whole or not there at all, and verified before they are used."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .._program import UserError
from .data import sha256

PROGRESS = "progress.json"


@dataclass
class Progress:
    """How far a training has come.

    Args:
        step: how many are done.
        losses: of each step; metrics: of each evaluation, with its step.
        settings: of the program; a run goes on only under the same.
        seconds: that it has taken.
    """

    settings: dict[str, Any]
    step: int = 0
    losses: list[float] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


class Checkpoints:
    """The checkpoints of one training, of which the last is kept.

    Each is a folder ``step-N`` that is written under another name and renamed when all is on the disk, so that
    whatever ends the process, SIGKILL included, leaves the one before or the one after. It holds what is put into
    :attr:`unfinished` after :meth:`begin`, and with :meth:`commit` the progress and the SHA-256 of each file.

    Args:
        folder: theirs alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unfinished = folder / "unfinished"

    def last(self) -> Path | None:
        """The newest."""
        found = {int(p.name.removeprefix("step-")): p for p in self.folder.glob("step-*") if p.name[5:].isdigit()}
        return found[max(found)] if found else None

    def clear(self) -> None:
        """Removes all."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def begin(self) -> None:
        """Makes :attr:`unfinished`, empty."""
        shutil.rmtree(self.unfinished, ignore_errors=True)
        self.unfinished.mkdir(parents=True)

    def commit(self, progress: Progress) -> None:
        """Makes what was written the newest, and removes those before."""
        path = self.folder / f"step-{progress.step}"
        files = {file.name: sha256(file) for file in sorted(self.unfinished.iterdir())}
        content = json.dumps({**asdict(progress), "files": files})
        (self.unfinished / PROGRESS).write_text(content, encoding="utf-8")
        for file in [*self.unfinished.iterdir(), self.unfinished]:
            _sync(file)
        shutil.rmtree(path, ignore_errors=True)
        self.unfinished.rename(path)
        _sync(self.folder)
        for old in self.folder.glob("step-*"):
            if old != path:
                shutil.rmtree(old, ignore_errors=True)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Tells in one line why they cannot be written."""
        try:
            yield
        except OSError as error:
            raise UserError(f"--output: cannot write to {self.folder}: {error.strerror or error}") from None

    def read(self, settings: dict[str, Any], load: Callable[[Path], None]) -> Progress | None:
        """Goes on from the last, if there is one.

        Raises:
            UserError: if it is damaged or was made under other settings.
        """
        path = self.last()
        if path is None:
            return None
        try:
            content = json.loads((path / PROGRESS).read_text(encoding="utf-8"))
            files = content.pop("files")
            progress = Progress(**content)
            damaged = next((name for name, digest in files.items() if not _is(path / name, digest)), None)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            damaged = PROGRESS
        if damaged is not None:
            raise UserError(f"--output: {path / damaged} is damaged: --restart begins anew")
        for name, value in settings.items():
            if progress.settings.get(name) != value:
                raise UserError(
                    f"--{name.replace('_', '-')}: got {value}, but the unfinished run in {path} has "
                    f"{progress.settings.get(name)}: give that, another --output, or --restart to begin anew"
                )
        try:
            load(path)
        except Exception as error:  # of whatever kind the loaders of five kinds of files raise
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"--output: cannot go on from {path}: {line}; --restart begins anew") from None
        return progress


def _is(file: Path, digest: str) -> bool:
    """Whether a file is there, with the content that it should have."""
    return file.is_file() and sha256(file) == digest


def _sync(path: Path) -> None:
    """Has the system put a file or a folder's list of names on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = ["Checkpoints", "Progress"]
