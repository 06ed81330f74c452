"""What was built, what is in use, and how a problem would be run."""

from __future__ import annotations

import argparse
import json
import platform
from typing import Any

import torch

from .. import _library
from .._program import UserError
from .._version import __version__

CELLS = {"rnn": "elman_tanh", "rnn_relu": "elman_relu", "lstm": "lstm", "gru": "gru"}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Of plans for a CPU and for a GPU, in the order in which they are shown.
FACTS = (
    "schedule",
    "why",
    "workers",
    "crew",
    "weights",
    "isa",
    "arithmetic",
    "tile",
    "blocks",
    "threads",
    "shared_memory",
    "weight_registers",
    "microseconds",
)
PASSES = ("forward", "bptt")
SIZES = {"T": "steps", "B": "rows of the batch", "H": "units"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m rnnfast info``."""

    def option(name: str, kind: type, default: Any, about: str) -> None:
        shown = "" if default is None else " (default: %(default)s)"
        parser.add_argument(
            f"--{name}", type=kind, default=default, metavar=kind.__name__.upper(), help=about + shown
        )

    option("cell", str, "lstm", f"of the layer: {', '.join(CELLS)}")
    for name, default in (("T", 100), ("B", 32), ("H", 128)):
        option(name, int, default, SIZES[name])
    option("I", int, None, "features of the input (default: as many as H)")
    option("threads", int, None, "of torch (default: as many as it has)")
    option("dtype", str, "float32", ", ".join(DTYPES))
    option("device", str, "cpu", "such as cpu, cuda or cuda:1")
    parser.add_argument("--bidirectional", action="store_true", help="two directions, side by side")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def check(options: argparse.Namespace) -> None:
    """Raises UserError for a value that cannot be."""
    for name, choices in (("cell", CELLS), ("dtype", DTYPES)):
        if getattr(options, name) not in choices:
            raise UserError(f"--{name}: got {getattr(options, name)}, expected one of {', '.join(choices)}")
    for name in (*SIZES, "I", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name}: got {value}, expected at least 1")


def facts() -> dict[str, Any]:
    """Of the build and of this process."""
    built = _library.build_info()
    isa = built.pop("isa_in_use")
    built.pop("version", None)
    return {
        "rnnfast": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "in use": "plain torch: no compiled library was found" if isa is None else f"_cpu_{isa}.so",
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        **built,
    }


def plans(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """How the forward pass and BPTT of a layer would be run."""
    found = {}
    for name in PASSES:
        try:
            plan: Any = _library.plan(
                CELLS[options.cell],
                options.T,
                options.B,
                options.H,
                G=2 if options.bidirectional else 1,
                dtype=DTYPES[options.dtype],
                device=options.device,
                threads=options.threads,
                pass_=name,
                I=(options.I or options.H) if name == "forward" else 0,
            )
        except (RuntimeError, AssertionError, ValueError) as error:
            line = str(error).splitlines()[0]
            raise UserError(f"no plan for --device {options.device}, --H {options.H}: {line}") from None
        found[name] = {key: getattr(plan, key) for key in FACTS if hasattr(plan, key)}
    return found


def main(options: argparse.Namespace) -> int:
    """Prints it."""
    check(options)
    known, planned = facts(), plans(options)
    if options.json:
        print(json.dumps({"build": known, "plans": planned}, indent=2))
        return 0
    for name, value in known.items():
        print(f"{name:20}{value}")
    shape = f"{options.cell} T={options.T} B={options.B} H={options.H} I={options.I or options.H} {options.dtype}"
    for name, plan in planned.items():
        print(f"\n{name} of {shape} on {options.device}")
        for key, value in plan.items():
            print(f"  {key:18}{value}")
    return 0


__all__ = ["add_arguments", "main"]
