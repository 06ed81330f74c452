"""Where data sets are found: in a folder of the user's, in the cache, or at their publisher's.

Each file is fetched once, from the public repository and the commit that :mod:`.sets` names, and verified by its
SHA-256 whenever it is used. pooch fetches under another name and renames what it has verified, so that a
transfer that breaks off leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._program import UserError, needs, notice, progress, read_text
from .sets import SETS, DataSet

ADDRESS = "https://raw.githubusercontent.com/{repository}/{commit}/{path}"
# Of seconds without an answer, and how often to try again.
PATIENCE = 30
RETRIES = 2


@dataclass(frozen=True)
class Found:
    """A data set on this machine.

    Args:
        files: by name.
        edited: those that differ from what was published.
    """

    files: dict[str, Path]
    edited: tuple[str, ...] = ()

    def lines(self, file: str) -> list[str]:
        """Of a UTF-8 file, without those that are empty.

        Raises:
            UserError: for a file that cannot be read, is not UTF-8 or holds nothing.
        """
        path = self.files[file]
        found = [line.strip() for line in read_text(path, "data").splitlines() if line.strip()]
        if not found:
            raise UserError(f"data: {path} is empty")
        return found


def find(name: str, folder: Path | None = None, only: Sequence[str] | None = None) -> Found:
    """A data set's files, verified.

    Args:
        name: of the set.
        folder: holds the set as ``name/file``; if not given, the environment variable ``RNNFAST_DATA`` may name
            one. A file there may differ from what was published, which is told in a line. Without a folder, files
            come from the cache (``RNNFAST_CACHE``, or the system's folder for caches) or over the network.
        only: the files wanted, all if not given.

    Raises:
        UserError: if a file is missing and cannot be had.
    """
    known = SETS[name]
    wanted = list(known.sums) if only is None else list(only)
    option = "--data"
    if folder is None and os.environ.get("RNNFAST_DATA"):
        option, folder = "RNNFAST_DATA", Path(os.environ["RNNFAST_DATA"])
    if folder is None:
        return Found(fetch(name, known, wanted))
    return look(name, known, wanted, folder, option)


def look(name: str, known: DataSet, wanted: list[str], folder: Path, option: str) -> Found:
    """The files in a folder of the user's."""
    files = {file: folder / name / file for file in wanted}
    for file, path in files.items():
        if not path.is_file():
            raise UserError(f"{option}: {folder} has no {name}/{file}; {origin(known, file)}")
    try:
        edited = tuple(file for file, path in files.items() if sha256(path) != known.sums[file])
    except OSError as error:
        raise UserError(f"{option}: cannot read {error.filename}: {error.strerror}") from None
    if edited:
        shown = f"{name}/{edited[0]}" + (f" and {len(edited) - 1} more" if len(edited) > 1 else "")
        notice(f"{option}: {shown} in {folder}: not the published file (other SHA-256); used as it is")
    return Found(files, edited)


def fetch(name: str, known: DataSet, wanted: list[str]) -> dict[str, Path]:
    """The files in the cache, those that are missing fetched first."""
    pooch: Any = needs("pooch", "recipes")
    pooch.get_logger().setLevel("WARNING")
    cache = Path(os.environ.get("RNNFAST_CACHE") or pooch.os_cache("rnnfast")) / name / known.commit[:12]
    urls = {
        file: ADDRESS.format(repository=known.repository, commit=known.commit, path=known.path(file))
        for file in wanted
    }
    registry = {file: f"sha256:{known.sums[file]}" for file in wanted}
    store = pooch.create(path=cache, base_url="", registry=registry, urls=urls, retry_if_failed=RETRIES)
    missing = any(not (cache / file).is_file() for file in wanted)
    files = {}
    for file in progress(wanted, f"fetching {name}", "file") if missing else wanted:
        try:
            files[file] = Path(store.fetch(file, downloader=pooch.HTTPDownloader(timeout=PATIENCE)))
        except (OSError, ValueError) as error:
            raise UserError(
                f"data: {name}/{file}: {reason(error, cache)}; {origin(known, file)}. "
                f"Or give a folder that has {name}/{file}: --data FOLDER, or RNNFAST_DATA"
            ) from None
    return files


def reason(error: Exception, cache: Path) -> str:
    """Why a file could not be fetched."""
    import requests

    if isinstance(error, requests.HTTPError):
        response: Any = error.response
        return f"the server answers {response.status_code} {response.reason}"
    if isinstance(error, requests.Timeout):
        return f"no answer within {PATIENCE} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the transfer broke off"
    if isinstance(error, requests.RequestException):
        return "no connection to the server"
    if isinstance(error, OSError):
        return f"cannot write to {cache}: {error.strerror or error}"
    return "what came is not the published file (other SHA-256)"


def origin(known: DataSet, file: str) -> str:
    """Where a file is published, in words."""
    return f"it is {known.path(file)} of github.com/{known.repository} at commit {known.commit[:12]}"


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


__all__ = ["SETS", "Found", "fetch", "find", "look", "origin", "sha256"]
