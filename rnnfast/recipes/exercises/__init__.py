"""The text's exercises, a file each."""

from ..._program import Program
from .adding import Adding
from .dates import Dates
from .hidden_states import HiddenStates
from .names import NameClassification
from .own_rnn import OwnRNN

EXERCISES: dict[str, type[Program]] = {
    "own-rnn": OwnRNN,
    "adding": Adding,
    "names": NameClassification,
    "dates": Dates,
    "hidden-states": HiddenStates,
}

__all__ = ["EXERCISES"]
