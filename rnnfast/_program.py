"""What the programs of the command line have in common: settings, results, and the folder these go to."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")


class UserError(Exception):
    """A mistake of the user's, told in one line."""


def setting(
    default: Any,
    about: str,
    *,
    choices: Sequence[Any] = (),
    least: float | None = None,
    most: float | None = None,
    metavar: str = "",
    positional: bool = False,
) -> Any:
    """A field of a :class:`Program`: its default, its line of help, what it may be, and its name in help.

    Args:
        positional: whether the command line has it without a name, and may leave it out.
    """
    metadata = {"about": about, "choices": tuple(choices), "least": least, "most": most, "metavar": metavar}
    metadata["positional"] = positional
    return field(default=default, metadata=metadata)


def read_text(path: Path, option: str) -> str:
    """A UTF-8 file.

    Raises:
        UserError: for a file that cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{option}: {path} is not UTF-8 (byte {error.start} does not fit)") from None
    except OSError as error:
        raise UserError(f"{option}: cannot read {path}: {error.strerror}") from None


def needs(module: str, extra: str) -> Any:
    """An optional module, or the line that tells how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"needs {error.name}: pip install 'rnnfast[{extra}]'") from None


def progress(steps: Iterable[T], about: str, unit: str = "step", done: int = 0) -> Any:
    """The same steps, with a bar where tqdm is installed and a terminal is there to show it.

    Args:
        steps: those still to do; done: how many were done before.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        return steps
    total = done + len(steps) if isinstance(steps, typing.Sized) else None
    options: dict[str, Any] = dict(desc=about, unit=unit, initial=done, total=total)
    return tqdm(steps, mininterval=0.5, disable=None, leave=False, **options)


def notice(line: str) -> None:
    """Tells the user something while a program runs: on stderr, above the bar if there is one."""
    try:
        from tqdm import tqdm
    except ImportError:
        print(line, file=sys.stderr)
    else:
        tqdm.write(line, file=sys.stderr)


def main_process() -> bool:
    """Whether this process is the one that tells and writes; under ``torchrun`` there are others."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` once all is written: no one ever finds half a file there.

    Raises:
        UserError: if the folder cannot be written to.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(f"--output: cannot write to {path.parent}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


@dataclass
class Result:
    """What a program found.

    Args:
        summary: for the terminal.
        data: plain numbers, strings, lists and dicts, for JSON.
        figures: by name, what draws each.
        files: by name, what writes each.
        ok: whether it is what was hoped for; the exit status of the command line is 1 otherwise.
    """

    summary: str
    data: dict[str, Any]
    figures: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)
    ok: bool = True
    files: Mapping[str, Callable[[Path], Any]] = field(default_factory=dict)

    def save(self, folder: Path) -> list[Path]:
        """Writes ``results.json``, a PNG for each figure and the other files; returns them all."""
        files = [folder / "results.json"]
        with whole_file(files[0]) as path:
            path.write_text(self.json() + "\n", encoding="utf-8")
        for name, draw in self.figures.items():
            files.append(folder / f"{name}.png")
            figure = draw()
            with whole_file(files[-1]) as path:
                figure.savefig(path, dpi=100)
        for name, write in self.files.items():
            files.append(folder / name)
            with whole_file(files[-1]) as path:
                write(path)
        return files

    def json(self) -> str:
        """The data; numbers that JSON has no name for, such as NaN, become null."""
        return json.dumps(_finite(self.data), indent=2, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


@dataclass(frozen=True)
class Program:
    """Settings of a program, each also an option of the command line; :meth:`run` does the work.

    Subclasses are frozen dataclasses whose fields are :func:`setting`; their docstring's first line is the
    program's help, `section` the section of the teaching text that it belongs to, `examples` lines of options
    worth trying, and `keeps` whether it leaves its results in a folder without being asked to.
    """

    section: ClassVar[str] = ""
    examples: ClassVar[tuple[str, ...]] = ()
    keeps: ClassVar[bool] = True

    seed: int = setting(0, "of all random numbers")
    device: str = setting("cpu", "such as cpu, cuda or cuda:1")

    def __post_init__(self) -> None:
        """Raises UserError for a value that its setting does not allow."""
        for f in dataclasses.fields(self):
            value, name = getattr(self, f.name), option_name(f.name)
            values = value if isinstance(value, tuple) else (value,)
            for v in values:
                choices, least, most = (f.metadata[limit] for limit in ("choices", "least", "most"))
                if choices and v not in choices:
                    raise UserError(f"{name}: got {v}, expected one of {', '.join(map(str, choices))}")
                if least is not None and v is not None and not v >= least:
                    raise UserError(f"{name}: got {v}, expected at least {least}")
                if most is not None and v is not None and not v <= most:
                    raise UserError(f"{name}: got {v}, expected at most {most}")
            if value == ():
                raise UserError(f"{name}: got no value, expected one or more")
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"--device: cannot use {self.device!r}: {str(error).splitlines()[0]}") from None

    def run(self) -> Result:
        """Runs the program."""
        raise NotImplementedError

    def finish(self) -> None:
        """Clears up, once the results are where they belong."""

    @classmethod
    def about(cls) -> str:
        """One line on what it does."""
        return (cls.__doc__ or "").strip().splitlines()[0]


def option_name(name: str) -> str:
    """Of the command line, for a setting."""
    return "--" + name.replace("_", "-")


def add_arguments(parser: argparse.ArgumentParser, program: type[Program]) -> None:
    """Gives a parser an option for each setting of a program."""
    hints = typing.get_type_hints(program)
    for f in dataclasses.fields(program):
        kind, many = hints[f.name], False
        if typing.get_origin(kind) in (types.UnionType, typing.Union):  # X | None
            kind = next(k for k in typing.get_args(kind) if k is not type(None))
        if typing.get_origin(kind) is tuple:
            kind, many = typing.get_args(kind)[0], True
        about = f.metadata["about"]
        if f.metadata["positional"]:
            shown = f.metadata["metavar"] or f.name.upper()
            parser.add_argument(f.name, nargs="?", type=kind, default=f.default, metavar=shown, help=about)
            continue
        if f.metadata["choices"]:
            about += f": {', '.join(map(str, f.metadata['choices']))}"
        default: Any = f.default
        if default is not None and kind is not bool:
            shown = " ".join(map(str, default)) if many else default
            about += f" (default: {shown})"
        options: dict[str, Any] = dict(dest=f.name, default=f.default, help=about.replace("%", "%%"))
        if kind is bool:
            options |= dict(action=argparse.BooleanOptionalAction if f.default else "store_true")
        else:
            options |= dict(type=kind, metavar=f.metadata["metavar"] or None)
            options |= dict(nargs="+") if many else {}
        parser.add_argument(option_name(f.name), **options)


def from_options(program: type[Program], options: argparse.Namespace) -> Program:
    """A program with the settings that the command line gave."""
    given = {f.name: getattr(options, f.name) for f in dataclasses.fields(program)}
    settings: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    return program(**settings)


__all__ = [
    "Program",
    "Result",
    "UserError",
    "add_arguments",
    "from_options",
    "main_process",
    "needs",
    "notice",
    "option_name",
    "progress",
    "read_text",
    "setting",
    "whole_file",
]
