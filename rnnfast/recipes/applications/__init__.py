"""The text's applications, a file each: every one trains on real data, and answers to data of yours."""

from ..._program import Program
from .application import Application
from .caption import Caption
from .charlm import CharLM
from .forecast import Forecast
from .music import Music
from .ner import Ner
from .sentiment import Sentiment
from .speech import Speech
from .translate import Translate
from .wordlm import WordLM

APPLICATIONS: dict[str, type[Application]] = {
    "forecast": Forecast,
    "charlm": CharLM,
    "wordlm": WordLM,
    "music": Music,
    "sentiment": Sentiment,
    "ner": Ner,
    "speech": Speech,
    "translate": Translate,
    "caption": Caption,
}
PREDICTIONS: dict[str, type[Program]] = {name: kind.prediction for name, kind in APPLICATIONS.items()}

__all__ = ["APPLICATIONS", "PREDICTIONS"]
