"""Uses of recurrent layers beyond the text, a program each."""

from ..._program import Program
from .agent import Agent
from .amplifier import Amplifier

EXAMPLES: dict[str, type[Program]] = {"agent": Agent, "amplifier": Amplifier}

__all__ = ["EXAMPLES"]
