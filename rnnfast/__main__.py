"""The command line: ``python -m rnnfast COMMAND``."""

from __future__ import annotations

import argparse
import sys

from .recipes import demo


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="rnnfast", description="Programs built on rnnfast's layers.")
    commands = parser.add_subparsers(dest="command", required=True)
    about = "train a character model with a layer of torch.nn and with rnnfast's and compare"
    demo.add_arguments(commands.add_parser("demo", help=about, description=about))
    options = parser.parse_args(arguments)
    try:
        return demo.main(options)
    except demo.UserError as error:
        print(f"rnnfast {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
