"""What rnnfast's layers can be asked for and torch's cannot."""

from __future__ import annotations

from typing import Any, ClassVar


class Options:
    """Attributes of a layer that are options of its own, checked when they are set.

    Of torch's layers they are none: what is not set stays the class's.
    """

    bptt_clip: float | None = None
    # Whether none is set but those that cost nothing to hand on, which a small layer asks at each call.
    _is_plain: bool = True
    _recompute: bool = False
    _checkpoint_every: int | None = None
    _recurrent_dropout: float = 0.0
    _zoneout: float | tuple[float, float] = 0.0
    _layer_norm: bool = False
    # Those with which a layer gives other results than torch's.
    _of_its_own: ClassVar = ("recurrent_dropout", "zoneout", "layer_norm")
    mode: str

    def _look_again(self) -> None:
        """After one of them was set."""
        asked = (self._layer_norm, self._recompute, self._checkpoint_every, self._recurrent_dropout, self._zoneout)
        self._is_plain = not any(asked)

    def _set_options(
        self,
        bptt_clip: float | None,
        recompute: bool,
        checkpoint_every: int | None,
        recurrent_dropout: float,
        zoneout: float | tuple[float, float],
    ) -> None:
        if bptt_clip is not None:
            if not _is_number(bptt_clip) or not bptt_clip > 0:
                raise ValueError(f"bptt_clip: got {bptt_clip!r}, expected a positive number or None")
            self.bptt_clip = float(bptt_clip)
        if recompute:
            self.recompute = True
        if checkpoint_every is not None:
            self.checkpoint_every = checkpoint_every
        if recurrent_dropout != 0:
            self.recurrent_dropout = recurrent_dropout
        if zoneout != 0:
            self.zoneout = zoneout

    def _options_repr(self) -> str:
        names = ("bptt_clip", "recompute", "checkpoint_every", *self._of_its_own)
        return "".join(f", {name}={getattr(self, name)}" for name in names if getattr(self, name))

    def _like_torchs(self, what: str) -> None:
        """Raises ValueError for a layer that `what`, torch's or made for torch's, cannot stand for."""
        for name in self._of_its_own:
            if getattr(self, name):
                raise ValueError(f"{name}: got {getattr(self, name)}, which {what} does not have")

    @property
    def recompute(self) -> bool:
        """Whether only states are kept for the backward pass."""
        return self._recompute

    @recompute.setter
    def recompute(self, again: bool) -> None:
        self._recompute = bool(again)
        self._look_again()

    @property
    def checkpoint_every(self) -> int | None:
        """Steps of a chunk of which only the first state is kept, or None: all is."""
        return self._checkpoint_every

    @checkpoint_every.setter
    def checkpoint_every(self, steps: int | None) -> None:
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
            raise ValueError(f"checkpoint_every: got {steps}, expected a number of steps or None")
        self._checkpoint_every = steps
        self._look_again()

    @property
    def layer_norm(self) -> bool:
        """Whether a cell's sums are normalised, which an LSTM's may be."""
        return self._layer_norm

    @property
    def recurrent_dropout(self) -> float:
        """The probability with which a unit's candidate is dropped for a whole sequence, in training."""
        return self._recurrent_dropout

    @recurrent_dropout.setter
    def recurrent_dropout(self, p: float) -> None:
        if not _is_number(p) or not 0 <= p < 1:
            raise ValueError(f"recurrent_dropout: got {p!r}, expected a number of at least 0 and below 1")
        self._recurrent_dropout = float(p)
        self._look_again()

    @property
    def zoneout(self) -> float | tuple[float, float]:
        """The probability with which a unit of the state stays what it was at a step; an LSTM's, or (h, c)."""
        return self._zoneout

    @zoneout.setter
    def zoneout(self, p: float | tuple[float, float]) -> None:
        pair = isinstance(p, (tuple, list))
        each = list(p) if isinstance(p, (tuple, list)) else [p]
        fits = len(each) == 2 and self.mode == "LSTM" if pair else True
        if not fits or not all(_is_number(one) and 0 <= one <= 1 for one in each):
            pairs = ", or a pair of them for h and c" if self.mode == "LSTM" else ""
            raise ValueError(f"zoneout: got {p!r}, expected a number from 0 to 1{pairs}")
        h, c = (float(each[0]), float(each[-1]))
        self._zoneout = (h, c) if pair and h != c else h
        self._look_again()

    def _rates(self, training: bool) -> tuple[float, float, float] | None:
        """Probabilities as operators take them; None: nothing is random, nor would be in training."""
        if not self._recurrent_dropout and not self._zoneout:
            return None
        h, c = self._zoneout if isinstance(self._zoneout, tuple) else (self._zoneout, self._zoneout)
        rates = (self._recurrent_dropout if training else 0.0, h, c if self.mode == "LSTM" else 0.0)
        return rates if any(rates) else None


def _is_number(p: Any) -> bool:
    return isinstance(p, (int, float)) and not isinstance(p, bool)


__all__ = ["Options"]
