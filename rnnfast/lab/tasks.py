"""What the laboratory's models learn: sequences drawn at random, whose answers need memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

# Held-out sequences: as many, and drawn from a seed that no training has.
HELD_OUT = 1024
_HELD_OUT_SEED = 2**31


@dataclass(frozen=True)
class Task:
    """Sequences with answers.

    Shapes: inputs (B, T, input_size) float32, outputs of a model (B, T, output_size).
    """

    input_size: ClassVar[int] = 1
    output_size: ClassVar[int] = 1
    unit: ClassVar[str] = "mean squared error"
    scale: ClassVar[str] = "log"  # of a figure's axis

    length: int

    @property
    def baseline(self) -> float:
        """The loss of the best answer that ignores the inputs."""
        raise NotImplementedError

    def batch(self, size: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """`size` fresh sequences and their targets."""
        raise NotImplementedError

    def held_out(self) -> tuple[Tensor, Tensor]:
        """Sequences that training does not see."""
        return self.batch(HELD_OUT, Generator().manual_seed(_HELD_OUT_SEED))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of a model's outputs at all steps."""
        raise NotImplementedError


@dataclass(frozen=True)
class LastStepTask(Task):
    """A task whose answer, one number, is read at the last step; its loss is the mean squared error."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error of the last step's output."""
        return F.mse_loss(outputs[:, -1], targets)


@dataclass(frozen=True)
class CopyFirst(LastStepTask):
    r"""Say at the end what came first.

    .. math::
        x_0 \sim N(0, 1), \quad x_t \sim N(0, noise^2) \text{ for } t > 0, \quad target = x_0

    The best answer without memory is 0, its error the variance 1.

    Args:
        length: steps, T.
        noise: standard deviation of what follows the first value.

    Shapes: inputs (B, T, 1), targets (B, 1).

    Example:
        >>> inputs, targets = CopyFirst(30).batch(4, torch.Generator())
        >>> inputs.shape, bool((inputs[:, 0] == targets).all())
        (torch.Size([4, 30, 1]), True)
    """

    noise: float = 0.1

    @property
    def baseline(self) -> float:
        """The variance of the first value."""
        return 1.0

    def batch(self, size: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """`size` fresh sequences and their first values."""
        inputs = torch.randn(size, self.length, 1, generator=generator)
        inputs[:, 1:] *= self.noise
        return inputs, inputs[:, 0].clone()


@dataclass(frozen=True)
class Adding(LastStepTask):
    """Add the two numbers that are marked (Hochreiter and Schmidhuber, "Long short-term memory", 1997).

    Numbers are uniform in [0, 1]; one of the first half and one of the second are marked by a 1 in the second
    feature. The best answer that ignores the marks is 1, its error the variance of two numbers, 1/6.

    Args:
        length: steps, T, at least 2.

    Shapes: inputs (B, T, 2), targets (B, 1).

    Example:
        >>> inputs, targets = Adding(30).batch(4, torch.Generator())
        >>> torch.equal((inputs[..., 0] * inputs[..., 1]).sum(1, keepdim=True), targets)
        True
    """

    input_size: ClassVar[int] = 2

    @property
    def baseline(self) -> float:
        """The variance of a sum of two uniform numbers."""
        return 1 / 6

    def batch(self, size: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """`size` fresh sequences and their sums."""
        numbers = torch.rand(size, self.length, generator=generator)
        half = self.length // 2
        first = torch.randint(0, half, (size, 1), generator=generator)
        second = torch.randint(half, self.length, (size, 1), generator=generator)
        marked = torch.cat([first, second], 1)
        marks = torch.zeros(size, self.length).scatter_(1, marked, 1.0)
        return torch.stack([numbers, marks], -1), numbers.gather(1, marked).sum(1, keepdim=True)


@dataclass(frozen=True)
class Smoothing(Task):
    r"""Say at each step the scaled mean of the values around it: a task that needs the future as much as the past.

    .. math::
        x_t \sim N(0, 1), \quad target_t = \frac{1}{\sqrt{2 k + 1}} \sum_{i = -k}^{k} x_{t + i}

    over the steps that have k values on either side. Targets have variance 1. A network that has seen only
    :math:`x_0, \dots, x_t` cannot do better than k / (2 k + 1), the share of what is still to come.

    Args:
        length: steps, T, more than 2 k.
        reach: values on either side, k.
        delay: how many steps later the answer is asked for: with k or more, nothing of it is in the future.

    Shapes: inputs (B, T, 1), targets (B, T - 2 k, 1).

    Example:
        >>> task = Smoothing(20, reach=2)
        >>> task.baseline, task.causal_floor
        (1.0, 0.4)
    """

    reach: int = 4
    delay: int = 0

    @property
    def baseline(self) -> float:
        """The variance of the targets."""
        return 1.0

    @property
    def causal_floor(self) -> float:
        """The least error of an answer that knows no value of later steps."""
        return max(0, self.reach - self.delay) / (2 * self.reach + 1)

    def batch(self, size: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """`size` fresh sequences and the sums around their steps."""
        inputs = torch.randn(size, self.length, 1, generator=generator)
        window = 2 * self.reach + 1
        return inputs, inputs.unfold(1, window, 1).sum(-1) / window**0.5

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error over the steps that have an answer."""
        first = self.reach + self.delay
        answers = outputs[:, first : self.length - self.reach + self.delay]
        return F.mse_loss(answers, targets[:, : answers.size(1)])


@dataclass(frozen=True)
class Opinions(Task):
    """Say whether more good than bad was said: sentences of words that are good, bad, neutral or a "not".

    Words 0 to 3 are "not", which turns the value of the next word round; 4 to 7 are good, 8 to 11 bad, the others
    neutral. The label is 1 if the values sum to more than 0.

    Args:
        length: words, T.

    Shapes: inputs (B, T) int64, targets (B,) int64, outputs (B, 2).

    Example:
        >>> Opinions(4).labels(torch.tensor([[4, 12, 13, 14], [0, 4, 0, 5]]))
        tensor([1, 0])
    """

    unit: ClassVar[str] = "nats per sentence"
    vocabulary: ClassVar[int] = 20

    @property
    def baseline(self) -> float:
        """The entropy of the labels."""
        return float(torch.special.entr(self.held_out()[1].bincount(minlength=2) / HELD_OUT).sum())

    def labels(self, words: Tensor) -> Tensor:
        """Of sentences (B, T)."""
        values = ((words >= 4) & (words < 8)).long() - ((words >= 8) & (words < 12)).long()
        turned = torch.zeros_like(words)
        turned[:, 1:] = words[:, :-1] < 4
        return ((values * (1 - 2 * turned)).sum(1) > 0).long()

    def batch(self, size: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """`size` fresh sentences and their labels."""
        words = torch.randint(0, self.vocabulary, (size, self.length), generator=generator)
        return words, self.labels(words)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(outputs, targets)


@dataclass(frozen=True)
class Characters(Task):
    """Predict each next character of a text; its last tenth is held out.

    Args:
        length: characters of a window, T.
        text: to learn.

    Shapes: inputs and targets (B, T) int64, outputs (B, T, V).

    Example:
        >>> task = Characters(5, "the cat sat on the mat " * 20)
        >>> inputs, targets = task.batch(2, torch.Generator())
        >>> torch.equal(inputs[:, 1:], targets[:, :-1])
        True
    """

    unit: ClassVar[str] = "nats per character"
    scale: ClassVar[str] = "linear"

    text: str = ""

    @cached_property
    def alphabet(self) -> list[str]:
        """The characters that there are, V of them."""
        return sorted(set(self.text))

    @cached_property
    def _parts(self) -> tuple[Tensor, Tensor]:
        """What is trained on and what is held out, as indices into the alphabet."""
        index = {c: i for i, c in enumerate(self.alphabet)}
        characters = torch.tensor([index[c] for c in self.text])
        learnt, held_out = characters.split([len(self.text) - len(self.text) // 10, len(self.text) // 10])
        return learnt, held_out

    @property
    def baseline(self) -> float:
        """The entropy of single characters."""
        shares = self._parts[1].bincount() / len(self._parts[1])
        return float(torch.special.entr(shares).sum())

    def batch(self, size: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Random windows of what is trained on, and the same shifted by one."""
        return self._windows(self._parts[0], size, generator)

    def held_out(self) -> tuple[Tensor, Tensor]:
        """Random windows of the part that is held out."""
        return self._windows(self._parts[1], HELD_OUT // 2, Generator().manual_seed(_HELD_OUT_SEED))

    def _windows(self, characters: Tensor, size: int, generator: Generator) -> tuple[Tensor, Tensor]:
        starts = torch.randint(0, len(characters) - self.length, (size, 1), generator=generator)
        windows = characters[starts + torch.arange(self.length + 1)]
        return windows[:, :-1], windows[:, 1:]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of every step's prediction."""
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


__all__ = ["Adding", "Characters", "CopyFirst", "LastStepTask", "Opinions", "Smoothing", "Task"]
