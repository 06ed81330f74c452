"""Where data sets are found: in a folder of the user's, in the cache, or at their publisher's.

Each file is fetched once, from the public repository and the commit that :mod:`.sets` names, and verified by its
SHA-256 whenever it is used. pooch fetches under another name and renames what it has verified, so that a
transfer that breaks off leaves nothing behind. A set of many small files is fetched as its commit's archive, and
the files are verified together: an archive's own bytes depend on when it was made.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .._program import UserError, needs, notice, progress, read_text
from .sets import SETS, DataSet, Members

ADDRESS = "https://raw.githubusercontent.com/{repository}/{commit}/{path}"
ARCHIVE = "https://github.com/{repository}/archive/{commit}.zip"
# Of seconds without an answer, and how often to try again.
PATIENCE = 30
RETRIES = 2


@dataclass(frozen=True)
class Found:
    """A data set on this machine.

    Args:
        files: by name.
        edited: those that differ from what was published; of a set with members, the pattern that all match.
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
        only: the files wanted, all if not given; of no effect on a set with members.

    Raises:
        UserError: if a file is missing and cannot be had.
    """
    known = SETS[name]
    wanted = list(known.sums) if only is None else list(only)
    option = "--data"
    if folder is None and os.environ.get("RNNFAST_DATA"):
        option, folder = "RNNFAST_DATA", Path(os.environ["RNNFAST_DATA"])
    if known.members is not None:
        if folder is None:
            return Found(fetch_members(name, known, known.members))
        return look_at_members(name, known, known.members, folder, option)
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
    cache = cached(name, known)
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
            raise unavailable(name, known, file, error) from None
    return files


def look_at_members(name: str, known: DataSet, members: Members, folder: Path, option: str) -> Found:
    """The members in a folder of the user's."""
    try:
        files = there(folder / name, members)
        same = sum_of(files) == members.sha256
    except OSError as error:
        raise UserError(f"{option}: cannot read {error.filename}: {error.strerror}") from None
    pattern = f"{name}/{members.pattern}"
    if len(files) < members.count:
        raise UserError(
            f"{option}: {folder} has {len(files):,} files {pattern}, expected {members.count:,}; "
            f"{origin(known, members.pattern)}"
        )
    if same:
        return Found(files)
    notice(f"{option}: {pattern} in {folder}: not the published files (other SHA-256); used as they are")
    return Found(files, (members.pattern,))


def fetch_members(name: str, known: DataSet, members: Members) -> dict[str, Path]:
    """The members in the cache, all of them fetched first unless they are there as they should be."""
    cache = cached(name, known)
    try:
        files = there(cache, members)
        if sum_of(files) == members.sha256:
            return files
        notice(f"fetching {name}: {members.count:,} files, as an archive")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as unfinished:
            fresh = Path(unfinished) / "members"
            extract(download(known, Path(unfinished)), fresh, known, members)
            if sum_of(there(fresh, members)) != members.sha256:
                raise ValueError
            folder = PurePosixPath(members.pattern).parent
            shutil.rmtree(cache / folder, ignore_errors=True)
            (cache / folder).parent.mkdir(parents=True, exist_ok=True)
            (fresh / folder).rename(cache / folder)
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise unavailable(name, known, members.pattern, error) from None
    return there(cache, members)


def download(known: DataSet, folder: Path) -> Path:
    """The archive of a set's commit, put into a folder."""
    pooch: Any = needs("pooch", "recipes")
    url = ARCHIVE.format(repository=known.repository, commit=known.commit)
    options: dict[str, Any] = dict(base_url="", registry={"archive.zip": None}, urls={"archive.zip": url})
    store = pooch.create(path=folder, retry_if_failed=RETRIES, **options)
    return Path(store.fetch("archive.zip", downloader=pooch.HTTPDownloader(timeout=PATIENCE)))


def extract(archive: Path, folder: Path, known: DataSet, members: Members) -> None:
    """The members of an archive, in which all lies in one folder of the repository's and the commit's name."""
    pattern = PurePosixPath(known.path(members.pattern))
    target = (folder / members.pattern).parent
    target.mkdir(parents=True)
    with zipfile.ZipFile(archive) as whole:
        for info in whole.infolist():
            path = PurePosixPath(*PurePosixPath(info.filename).parts[1:])
            # Of the same folder, to the letter, so that no name leads out of ours.
            if path.parent == pattern.parent and path.match(pattern.name) and not info.is_dir():
                with whole.open(info) as source, (target / path.name).open("xb") as file:
                    shutil.copyfileobj(source, file)


def there(folder: Path, members: Members) -> dict[str, Path]:
    """The files in a folder that are members by their names, in the order of these."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.glob(members.pattern) if path.is_file()}
    return dict(sorted(found.items()))


def sum_of(files: Mapping[str, Path]) -> str:
    """The SHA-256 of a list of files, as :class:`~rnnfast.recipes.sets.Members` has it."""
    lines = (f"{sha256(path)}  {name}\n" for name, path in files.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def cached(name: str, known: DataSet) -> Path:
    """Where the cache has a set."""
    pooch: Any = needs("pooch", "recipes")
    pooch.get_logger().setLevel("WARNING")
    return Path(os.environ.get("RNNFAST_CACHE") or pooch.os_cache("rnnfast")) / name / known.commit[:12]


def unavailable(name: str, known: DataSet, file: str, error: Exception) -> UserError:
    """That a file could not be fetched, and what to do."""
    return UserError(
        f"data: {name}/{file}: {reason(error, cached(name, known))}; {origin(known, file)}. "
        f"Or give a folder that has {name}/{file}: --data FOLDER, or RNNFAST_DATA"
    )


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


__all__ = [
    "SETS",
    "Found",
    "fetch",
    "fetch_members",
    "find",
    "look",
    "look_at_members",
    "origin",
    "sha256",
    "sum_of",
]
