"""The command line: ``python -m rnnfast COMMAND``, or ``rnnfast COMMAND``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ._program import Program, UserError, add_arguments, from_options, main_process, notice

EXAMPLES = """examples:
  rnnfast text                              the teaching text's sections, each with the command that runs it
  rnnfast demo --cell lstm                  a character model, beside torch.nn's
  rnnfast lab --help                        the experiments
  rnnfast lab gradient-flow --seed 1        one of them
  rnnfast exercise names --output names     trains, evaluates, leaves results.json and pictures in names/
  rnnfast exercise own-rnn --check mine.py  grades an RNN of yours
  rnnfast example agent                     a real use: learns to balance, from positions alone
  rnnfast info --cell lstm --T 100 --B 32 --H 256 --threads 2

Each command has a --help of its own."""


class Parser(argparse.ArgumentParser):
    """A parser that asks for its arguments when it is used, so that `--help` loads none of the programs.

    Args:
        fill: adds the arguments.
    """

    # Where to put what follows the command, whatever it looks like; argparse would take options for its own.
    rest: str | None = None

    def __init__(self, fill: Callable[[Parser], None] | None = None, **options: Any) -> None:
        super().__init__(**{**options, "formatter_class": argparse.RawDescriptionHelpFormatter})
        self._fill = fill
        self.set_defaults(prog=self.prog)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's."""
        if self._fill is not None:
            fill, self._fill = self._fill, None
            fill(self)
        if self.rest is not None and args not in (["-h"], ["--help"]):
            namespace, rest = super().parse_known_args([], namespace)
            setattr(namespace, self.rest, args)
            return namespace, rest
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """One line, like all of a user's mistakes."""
        self.exit(2, f"{self.prog}: {message} (--help lists what there is)\n")


def programs(name: str) -> Callable[[Parser], None]:
    """Fills a parser with the programs of a registry, given as ``"module:dictionary"``."""

    def fill(parser: Parser) -> None:
        module, registry = name.split(":")
        found: dict[str, type[Program]] = getattr(importlib.import_module(module, __package__), registry)
        chosen = parser.add_subparsers(metavar="NAME", required=True)
        for program, kind in found.items():
            about = kind.about().rstrip(".")
            sub = chosen.add_parser(
                program, help=about[:1].lower() + about[1:], description=kind.about(), fill=of_program(kind)
            )
            if kind.examples:
                sub.epilog = "\n".join(["examples:", *(f"  {sub.prog} {line}" for line in kind.examples)])

    return fill


def of_program(kind: type[Program]) -> Callable[[Parser], None]:
    """Fills a parser with a program's settings and what all programs have."""

    def fill(parser: Parser) -> None:
        add_arguments(parser, kind)
        default = Path("rnnfast-output") / parser.prog.split()[-1]
        about = f"folder for results.json and pictures (default: {default})"
        if "output" in kind.__dataclass_fields__:  # a program that writes more there
            parser.set_defaults(output=default)
        else:
            parser.add_argument("--output", type=Path, default=default, metavar="FOLDER", help=about)
        parser.add_argument("--json", action="store_true", help="print the results as JSON")
        parser.set_defaults(run=lambda options: run_program(kind, options))

    return fill


def run_program(kind: type[Program], options: argparse.Namespace) -> int:
    """Runs a program, shows and keeps what it found."""
    program = from_options(kind, options)
    result = program.run()
    if not main_process():
        return 0
    print(result.json() if options.json else result.summary)
    files = result.save(options.output)
    program.finish()
    notice(f"written: {', '.join(map(str, files))}")
    return 0 if result.ok else 1


def command(module: str) -> Callable[[Parser], None]:
    """Fills a parser from a module's `add_arguments`; its `main` runs the command."""

    def fill(parser: Parser) -> None:
        found = importlib.import_module(module, __package__)
        found.add_arguments(parser)
        parser.set_defaults(run=found.main)

    return fill


COMMANDS: dict[str, tuple[str, Callable[[Parser], None]]] = {
    "demo": (
        "train a character model with a layer of torch.nn and with rnnfast's and compare",
        command(".recipes.demo"),
    ),
    "lab": ("run an experiment on how recurrent networks learn", programs(".lab:EXPERIMENTS")),
    "exercise": (
        "train a model, evaluate it on held-out data and show examples",
        programs(".recipes.exercises:EXERCISES"),
    ),
    "example": ("put a recurrent layer to a real use", programs(".recipes.examples:EXAMPLES")),
    "bench": ("measure speed beside torch.nn, in a checkout of rnnfast", command(".recipes.bench")),
    "info": ("what was built, what is in use, and how a problem would be run", command(".recipes.info")),
    "text": ("the teaching text's sections, each with the command that runs it", command(".recipes.text")),
}


def command_line() -> Parser:
    """Reads a command and its options; the ``run`` of what it returns runs it."""
    parser = Parser(prog="rnnfast", description="Programs built on rnnfast's layers.", epilog=EXAMPLES)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (about, fill) in COMMANDS.items():
        commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.", fill=fill)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns its exit status: 2 for a mistake of the user's, 130 after Ctrl-C."""
    options = command_line().parse_args(arguments)
    try:
        return options.run(options)
    except UserError as error:
        print(f"{options.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
