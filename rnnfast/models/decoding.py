"""Turning a model's predictions into sequences: greedily, by drawing, or by beam search.

Shared by every model that generates. Such a model hands over one function, its *step*: tokens (N,) and the state
before them become logits (N, V) for what follows and the state after. The state is carried from step to step and
never rebuilt; each token costs one step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from ._checks import at_least, one_of
from .backbone import State, rows_of

METHODS = ("greedy", "sample", "beam")

Step: TypeAlias = Callable[[Tensor, Any], tuple[Tensor, Any]]
Choice: TypeAlias = Callable[[Tensor], Tensor]


class Hypothesis(NamedTuple):
    """A sequence that beam search found: its tokens without the end token, and its score."""

    tokens: list[int]
    score: float


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, and afterwards every part of it in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def greedy(logits: Tensor) -> Tensor:
    """The most probable token of each row: (N, V) to (N,)."""
    return logits.argmax(-1)


def sampling(
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Choice:
    r"""A function that draws a token for each row of logits, (N, V) to (N,).

    .. math::
        p_i \propto \exp(logits_i / temperature)

    among the `top_k` most probable tokens (Fan, Lewis and Dauphin, arXiv:1805.04833), and of these the fewest
    whose probabilities sum to `top_p` at least: nucleus sampling (Holtzman et al., arXiv:1904.09751).

    Args:
        temperature: above 0; below 1 it sharpens the distribution, above it flattens it.
        top_k: how many tokens may be drawn; None for all.
        top_p: the probability that they must cover, above 0, at most 1; None for all of it.
        generator: of random numbers, torch's own if not given.

    Raises:
        ValueError: for a value out of range.

    Example:
        >>> draw = sampling(temperature=0.5, top_k=1)
        >>> draw(torch.tensor([[0.0, 3.0, 1.0]]))
        tensor([1])
    """
    if not temperature > 0:
        raise ValueError(f"temperature: got {temperature}, expected more than 0 (method='greedy' is its limit)")
    if top_k is not None:
        at_least(1, top_k=top_k)
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p: got {top_p}, expected more than 0 and at most 1")

    def draw(logits: Tensor) -> Tensor:
        logits = logits / temperature
        if top_k is not None:
            logits = _most_probable(logits, top_k)
        if top_p is not None:
            logits = _nucleus(logits, top_p)
        return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)

    return draw


def _most_probable(logits: Tensor, count: int) -> Tensor:
    kept, indices = logits.topk(min(count, logits.size(-1)), -1)
    return torch.full_like(logits, -torch.inf).scatter(-1, indices, kept)


def _nucleus(logits: Tensor, mass: float) -> Tensor:
    ordered, indices = logits.sort(-1, descending=True)
    p = ordered.softmax(-1)
    # A token stays while those before it have not covered the mass, so the first one always does.
    ordered = ordered.masked_fill(p.cumsum(-1) - p >= mass, -torch.inf)
    return torch.full_like(logits, -torch.inf).scatter(-1, indices, ordered)


@torch.no_grad()
def stream(step: Step, logits: Tensor, state: Any, choose: Choice) -> Iterator[Tensor]:
    """Tokens (N,), one step after another without end; a step runs when the token after it is asked for.

    Args:
        step: of the model; see above.
        logits: (N, V), predictions of the first token.
        state: of the model after what came so far.
        choose: :func:`greedy` or what :func:`sampling` returns.
    """
    while True:
        tokens = choose(logits)
        yield tokens
        logits, state = step(tokens, state)


def generate(
    step: Step,
    logits: Tensor,
    state: Any,
    *,
    max_length: int,
    end: int | None = None,
    method: str = "greedy",
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    beam: int = 4,
    length_penalty: float = 0.0,
) -> list[list[int]]:
    """A sequence for each row, up to its end token, which is left out, or to `max_length`.

    Args:
        step, logits, state: as in :func:`stream`.
        max_length: the most tokens of a sequence, the end token included.
        end: the token that ends a sequence; None if there is none.
        method: ``"greedy"``, ``"sample"`` or ``"beam"``.
        temperature, top_k, top_p, generator: of ``"sample"``; see :func:`sampling`.
        beam, length_penalty: of ``"beam"``; see :func:`beam_search`.

    Raises:
        ValueError: for an unknown method or a value out of range.
    """
    one_of(METHODS, method=method)
    at_least(1, max_length=max_length)
    if method == "beam":
        found = beam_search(
            step, logits, state, beam=beam, max_length=max_length, end=end, length_penalty=length_penalty
        )
        return [hypotheses[0].tokens for hypotheses in found]
    choose = greedy if method == "greedy" else sampling(temperature, top_k, top_p, generator)
    return _until(end, itertools.islice(stream(step, logits, state, choose), max_length))


def _until(end: int | None, steps: Iterator[Tensor]) -> list[list[int]]:
    """The steps as one list for each row, and no step more than the longest of them needs."""
    if end is None:
        return torch.stack(list(steps), 1).tolist()
    rows: list[list[int]] = []
    running: list[tuple[int, list[int]]] = []
    for tokens in steps:
        values = tokens.tolist()
        if not rows:
            rows = [[] for _ in values]
            running = list(enumerate(rows))
        running = [(i, row) for i, row in running if values[i] != end]
        for i, row in running:
            row.append(values[i])
        if not running:
            break
    return rows


@torch.no_grad()
def beam_search(
    step: Step,
    logits: Tensor,
    state: State,
    *,
    beam: int,
    max_length: int,
    end: int | None = None,
    length_penalty: float = 0.0,
) -> list[list[Hypothesis]]:
    r"""Follows the `beam` most probable beginnings of each row at once; all rows and beginnings are one batch.

    Hypotheses are compared by

    .. math::
        \log p(tokens) \Big/ \left(\frac{5 + n}{6}\right)^{length\_penalty}

    with n the number of tokens, the end token included (Wu et al., arXiv:1609.08144, section 7). One that ends is
    set aside; a row is finished when it has `beam` of these and nothing open is as good as any, or when nothing
    open can overtake the best. Those that are cut off at `max_length` count as they are. `beam=1` is the greedy
    method.

    Args:
        step, logits, state: as in :func:`stream`; the state a tensor (L, N, H) or a pair of them.
        beam: how many beginnings are followed.
        max_length, end: as in :func:`generate`.
        length_penalty: 0 compares by probability, which favours short sequences; 1 nearly by mean per token.

    Returns:
        For each row one or more hypotheses, the best first.

    Raises:
        ValueError: for a value out of range.
    """
    at_least(1, beam=beam, max_length=max_length)
    at_least(0, length_penalty=length_penalty)
    search = _Search(logits.size(0), beam, max_length, end, length_penalty, logits.device)
    logits, state = logits.repeat_interleave(beam, 0), rows_of(state, search.rows)
    while search.extend(logits):
        logits, state = step(search.tokens[:, :, -1].flatten(), rows_of(state, search.parents))
    return search.found()


class _Search:
    """Where a beam search stands: B rows, each with K open beginnings, and the hypotheses that are finished."""

    def __init__(
        self, B: int, K: int, max_length: int, end: int | None, penalty: float, device: torch.device
    ) -> None:
        self.B, self.K, self.max_length, self.end, self.penalty = B, K, max_length, end, penalty
        self.rows = torch.arange(B, device=device).repeat_interleave(K)
        self.parents = self.rows
        self.tokens = torch.empty(B, K, 0, dtype=torch.int64, device=device)
        # All K beginnings are the same empty one: only the first may be extended.
        self.scores = torch.full((B, K), -torch.inf, device=device)
        self.scores[:, 0] = 0
        self.finished: list[list[Hypothesis]] = [[] for _ in range(B)]
        self.open = [True] * B

    def extend(self, logits: Tensor) -> bool:
        """Extends each beginning by one token, given logits (B K, V); whether there is anything left to do."""
        B, K, V = self.B, self.K, logits.size(-1)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        scores = self.scores.unsqueeze(2) + logits.log_softmax(-1, dtype).view(B, K, V)
        # At most K of the best 2 K end, one for each beginning, so K that go on are among them.
        scores, places = scores.flatten(1).topk(min(2 * K, K * V))
        beginnings, tokens = places // V, places % V
        ends = torch.zeros_like(places, dtype=torch.bool) if self.end is None else tokens == self.end
        self._set_aside(ends[:, :K], scores, beginnings)

        going = ends.to(torch.int8).argsort(dim=1, stable=True)[:, :K]
        self.scores = scores.gather(1, going)
        beginnings, tokens = beginnings.gather(1, going), tokens.gather(1, going)
        self.parents = (self.rows.view(B, K)[:, :1] * K + beginnings).flatten()
        extended = self.tokens.flatten(0, 1).index_select(0, self.parents).view(B, K, -1)
        self.tokens = torch.cat([extended, tokens.unsqueeze(2)], 2)
        self._close_rows()
        return self._length < self.max_length and any(self.open)

    @property
    def _length(self) -> int:
        return self.tokens.size(2)

    def _penalized(self, score: float, length: int) -> float:
        return score / ((5 + length) / 6) ** self.penalty

    def _set_aside(self, ends: Tensor, scores: Tensor, beginnings: Tensor) -> None:
        for row, rank in (ends & scores[:, : self.K].isfinite()).nonzero().tolist():
            if self.open[row]:
                tokens = self.tokens[row, beginnings[row, rank]].tolist()
                score = self._penalized(scores[row, rank].item(), self._length + 1)
                self.finished[row].append(Hypothesis(tokens, score))

    def _close_rows(self) -> None:
        """Scores only fall, so that an open beginning never does better than by as much as it has now.

        The bound for the best hypothesis is exact: the longest sequence is divided by most. That for the K of them
        takes the present length, as else a penalty would keep rows open to the last step.
        """
        for row, best in enumerate(self.scores[:, 0].tolist()):
            kept = sorted(self.finished[row], key=lambda hypothesis: -hypothesis.score)[: self.K]
            self.finished[row] = kept
            if not kept:
                continue
            overtaken = self._penalized(best, self.max_length) > kept[0].score
            joined = len(kept) < self.K or self._penalized(best, self._length) > kept[-1].score
            if not (overtaken and joined):
                self.open[row] = False

    def found(self) -> list[list[Hypothesis]]:
        """What each row found, with the beginnings of rows that are still open as they are."""
        for row, scores in enumerate(self.scores.tolist()):
            for k, score in enumerate(scores):
                if self.open[row] and score > -torch.inf:
                    tokens = self.tokens[row, k].tolist()
                    self.finished[row].append(Hypothesis(tokens, self._penalized(score, self._length)))
        return [sorted(row, key=lambda hypothesis: -hypothesis.score) for row in self.finished]


__all__ = ["METHODS", "Hypothesis", "beam_search", "evaluating", "generate", "greedy", "sampling", "stream"]
