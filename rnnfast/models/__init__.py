"""Models built on recurrent layers, rnnfast's or torch.nn's. All arrays are batch first."""

from . import decoding
from .attention import Attention
from .backbone import CELLS, State, detached, hidden, last_hidden, recurrent_layer, rows_of, run, valid
from .bidirectional import BidirectionalEncoder
from .classifier import SequenceClassifier
from .dilated import Dilated
from .generator import SequenceGenerator
from .language import LanguageModel
from .readout import Feedforward, ReadoutRNN
from .residual import ResidualStack
from .seq2seq import Seq2Seq
from .streaming import StreamingFilter
from .tagger import Tagger

__all__ = [
    "CELLS",
    "Attention",
    "BidirectionalEncoder",
    "Dilated",
    "Feedforward",
    "LanguageModel",
    "ReadoutRNN",
    "ResidualStack",
    "Seq2Seq",
    "SequenceClassifier",
    "SequenceGenerator",
    "State",
    "StreamingFilter",
    "Tagger",
    "decoding",
    "detached",
    "hidden",
    "last_hidden",
    "recurrent_layer",
    "rows_of",
    "run",
    "valid",
]
