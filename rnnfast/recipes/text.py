"""The teaching text's sections, each with the command that runs it."""

from __future__ import annotations

import argparse
import importlib
import json
from typing import Any

from .._program import Program

# Titles in the order of the text, each with what Python has for it.
SECTIONS: dict[str, tuple[str, ...]] = {
    "The Feedforward Limitation": ("models.Feedforward",),
    "The Recurrent Solution": ("RNNCell",),
    "The RNN Equations": ("RNN", "models.ReadoutRNN"),
    "Many-to-One": ("models.SequenceClassifier",),
    "One-to-Many": ("models.SequenceGenerator",),
    "Many-to-Many": ("models.Seq2Seq", "models.Tagger"),
    "Backpropagation Through Time": (),
    "Why Gradients Vanish": (),
    "The Impact on Learning": (),
    "Solutions to Vanishing Gradients": ("LSTM", "GRU", "initialization", "models.Dilated", "models.Attention"),
    "Bidirectional RNNs": ("models.BidirectionalEncoder",),
    "Deep RNNs": ("models.ResidualStack",),
    "Practical Example: Character-Level Language Model": ("models.LanguageModel",),
    "RNN Applications": (),
    "Exercise 1: Implement RNN from Scratch": (),
    "Exercise 2: Adding Problem": (),
    "Exercise 3: Name Classification": (),
    "Exercise 4: Sequence-to-Sequence": (),
    "Exercise 5: Visualize Hidden States": (),
}
REGISTRIES = {
    "lab": ("..lab", "EXPERIMENTS"),
    "exercise": (".exercises", "EXERCISES"),
    "example": (".examples", "EXAMPLES"),
}
# Of commands that are no program of a registry.
OTHERS = {"Practical Example: Character-Level Language Model": {"demo": "Trains it beside torch.nn's."}}


def sections() -> dict[str, dict[str, Any]]:
    """For each title what Python has, and commands with a line about each."""
    found: dict[str, dict[str, Any]] = {}
    for title, names in SECTIONS.items():
        python = [f"rnnfast.{name}" for name in names]
        found[title] = {"python": python, "commands": dict(OTHERS.get(title, {}))}
    for command, (module, registry) in REGISTRIES.items():
        programs: dict[str, type[Program]] = getattr(importlib.import_module(module, __package__), registry)
        for name, program in programs.items():
            place = found.setdefault(program.section or "Others", {"python": [], "commands": {}})
            place["commands"][f"{command} {name}"] = program.about()
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m rnnfast text``."""
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def main(options: argparse.Namespace) -> int:
    """Prints it."""
    found = sections()
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    for title, has in found.items():
        print(title)
        for command, about in has["commands"].items():
            print(f"    rnnfast {command:26}{about}")
        if has["python"]:
            print(f"    in Python: {', '.join(has['python'])}")
    return 0


__all__ = ["SECTIONS", "add_arguments", "main", "sections"]
