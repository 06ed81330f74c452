"""Grades a student's RNN against :class:`torch.nn.RNN`, in float64 and without looking inside it.

The student may keep weights in any way: two maps or one, one bias or two, ``nn.Linear`` or ``nn.Parameter``. So
they are measured: since :math:`h_t = \\tanh(W_{ih} x_t + W_{hh} h_{t-1} + b)`, :math:`\\operatorname{artanh} h_1`
is an affine function of x_1, and what the second step adds a linear one of h_1; least squares finds both. A
``torch.nn.RNN`` with these weights is the oracle. How they depend on a parameter is measured likewise, by
differences, so that the gradient of any parameter can be compared, too.

``python -m rnnfast.recipes.exercises.grading FILE REPORT`` grades a file and appends each verdict to REPORT, a
line of JSON each. It is a process of its own, since a student's file may crash or never end.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# All different, so that no axis can be taken for another; I > H, so that inputs reach every state.
B, T, I, H = 3, 7, 6, 4  # noqa: E741
ROWS = 96  # of inputs that weights are measured with
TOLERANCE = 1e-6
POINTS = {
    "constructs": "MyRNN(input_size, hidden_size) makes a module",
    "shapes": "outputs are (B, T, H), h_n is (B, H) or (1, B, H)",
    "rows": "rows of the batch do not influence one another, nor calls those after them",
    "step": "a step is tanh(W_ih x_t + W_hh h_{t-1} + b)",
    "outputs": "outputs are torch.nn.RNN's",
    "h_n": "h_n is torch.nn.RNN's",
    "h_0": "h_0 is honoured",
    "weights": "W_ih, W_hh and b are parameters, which an optimizer can find",
    "input gradient": "the gradient of the input is torch.nn.RNN's",
    "h_0 gradient": "the gradient of h_0 is torch.nn.RNN's",
    "weight gradients": "the gradient of each parameter follows from torch.nn.RNN's",
}


class Failed(Exception):
    """Why a point is not given."""


class Weights(NamedTuple):
    """Of an Elman RNN: (H, I), (H, H) and (H)."""

    w_ih: Tensor
    w_hh: Tensor
    b: Tensor

    def layer(self) -> nn.RNN:
        """torch.nn's, with these weights."""
        rnn = nn.RNN(I, H, batch_first=True)
        with torch.no_grad():
            rnn.weight_ih_l0.copy_(self.w_ih)
            rnn.weight_hh_l0.copy_(self.w_hh)
            rnn.bias_ih_l0.copy_(self.b)
            rnn.bias_hh_l0.zero_()
        return rnn


class Student:
    """A student's module, called in one way only."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.state_rank = 3

    def __call__(self, x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs (B, T, H) and h_n (B, H), given h_0 (B, H)."""
        if h_0 is not None and self.state_rank == 3:
            h_0 = h_0.unsqueeze(0)
        result: Any = self.model(x) if h_0 is None else self.model(x, h_0)
        if not (isinstance(result, tuple | list) and len(result) == 2):
            raise Failed(f"forward returns {type(result).__name__}, expected (outputs, h_n)")
        expected: dict[str, list[tuple[int, ...]]] = {
            "outputs": [(len(x), x.size(1), H)],
            "h_n": [(len(x), H), (1, len(x), H)],
        }
        for (name, shapes), value in zip(expected.items(), result, strict=True):
            if not isinstance(value, Tensor):
                raise Failed(f"{name} is {type(value).__name__}, expected a tensor")
            if tuple(value.shape) not in shapes:
                raise Failed(f"{name}: got shape {tuple(value.shape)}, expected {' or '.join(map(str, shapes))}")
            if not value.isfinite().all():
                raise Failed(f"{name} has values that are not finite")
        outputs, h_n = result
        return outputs, h_n.reshape(len(x), H)

    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.is_floating_point()}

    @torch.no_grad()
    def randomize(self) -> None:
        """Gives parameters values that saturate nothing."""
        for p in self.parameters().values():
            p.uniform_(-0.5, 0.5)


def measure(student: Student) -> tuple[Weights, dict[str, float]]:
    """The weights, and how much of each of the first two steps they leave unexplained."""
    with torch.no_grad():
        x = torch.randn(ROWS, 2, I, generator=torch.Generator().manual_seed(1))
        y = student(x)[0]
        if not bool((y.abs() < 1).all()):
            raise Failed("outputs reach beyond -1 and 1, where tanh cannot: is it applied?")
        ones = torch.ones(ROWS, 1)
        a = torch.atanh(y)
        first = _fit(torch.cat([x[:, 0], ones], 1), a[:, 0])
        w_ih, b = first.answer[:-1].T, first.answer[-1]
        second = _fit(y[:, 0], a[:, 1] - x[:, 1] @ w_ih.T - b)
    return Weights(w_ih, second.answer.T, b), {"first": first.left, "second": second.left}


class _Fit(NamedTuple):
    answer: Tensor
    left: float


def _fit(inputs: Tensor, outputs: Tensor) -> _Fit:
    answer = torch.linalg.lstsq(inputs, outputs, driver="gelsd").solution
    return _Fit(answer, float((inputs @ answer - outputs).abs().max()))


def differs(mine: Tensor, theirs: Tensor) -> float | None:
    """By how much, where it is more than rounding."""
    apart = float((mine - theirs).abs().max())
    return None if apart <= TOLERANCE * max(1.0, float(theirs.abs().max())) else apart


class Grader:
    """Grades one file, point by point; later points use what earlier ones found."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.generator = torch.Generator().manual_seed(0)
        self.x = self.random(B, T, I)
        self.h_0 = self.random(B, H) * 0.5

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def points(self) -> Iterator[tuple[str, Callable[[], str | None], tuple[str, ...]]]:
        """Name, what grades it (its remark is returned, its failure raised), and the points that it builds on."""
        yield "constructs", self.constructs, ()
        yield "shapes", self.shapes, ("constructs",)
        yield "rows", self.rows, ("shapes",)
        yield "step", self.step, ("shapes", "rows")
        yield "outputs", self.outputs, ("step",)
        yield "h_n", self.h_n, ("step",)
        yield "h_0", self.honours_h_0, ("step",)
        yield "weights", self.weights, ("step",)
        yield "input gradient", self.input_gradient, ("outputs", "h_n")
        yield "h_0 gradient", self.h_0_gradient, ("h_0", "outputs", "h_n")
        yield "weight gradients", self.weight_gradients, ("weights", "outputs", "h_n")

    def constructs(self) -> str | None:
        if not self.file.is_file():
            raise Failed(f"no file {self.file}")
        sys.path.insert(0, str(self.file.resolve().parent))
        loader = importlib.machinery.SourceFileLoader("student", str(self.file))
        spec = importlib.util.spec_from_loader("student", loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["student"] = module
        loader.exec_module(module)
        if not hasattr(module, "MyRNN"):
            raise Failed("there is no class MyRNN in it")
        torch.set_default_dtype(torch.float64)  # the file may have set another
        model = module.MyRNN(I, H)
        if not isinstance(model, nn.Module):
            raise Failed(f"MyRNN is no torch.nn.Module but {type(model).__name__}")
        self.student = Student(model.double().eval())
        return None

    def shapes(self) -> str | None:
        self.student.randomize()
        self.student(self.x)
        self.student(self.x[:1, :1])
        return None

    def rows(self) -> str | None:
        before = self.x.clone()
        with torch.no_grad():
            whole = self.student(self.x)[0]
            if differs(whole, self.student(self.x)[0]) is not None:
                raise Failed("a second call with the same input gives something else: does it start from zero?")
            if differs(whole[1:2], self.student(self.x[1:2])[0]) is not None:
                raise Failed("one row alone gives something else: x is (B, T, I), and time its second axis")
        if not torch.equal(self.x, before):
            raise Failed("the call changes its input")
        return None

    def step(self) -> str | None:
        self.known, left = measure(self.student)
        if left["first"] > TOLERANCE:
            raise Failed(f"the first step is not tanh of an affine function of x_1 (off by {left['first']:.1e})")
        if left["second"] > TOLERANCE:
            raise Failed(f"the second step does not add a linear function of h_1 (off by {left['second']:.1e})")
        if float(self.known.w_hh.abs().max()) < TOLERANCE:
            raise Failed("the second step does not depend on the first: is h carried on?")
        self.oracle = self.known.layer()
        return None

    def outputs(self) -> str | None:
        return self._outputs_with(None)

    def _outputs_with(self, h_0: Tensor | None) -> str | None:
        with torch.no_grad():
            mine = self.student(self.x, h_0)[0]
            theirs = self.oracle(self.x, None if h_0 is None else h_0.unsqueeze(0))[0]
        apart = differs(mine, theirs)
        if apart is not None:
            first = next(t for t in range(T) if differs(mine[:, t], theirs[:, t]) is not None)
            raise Failed(f"they differ by up to {apart:.1e}, first at step {first + 1} of {T}")
        return f"largest difference {float((mine - theirs).abs().max()):.1e}"

    def h_n(self) -> str | None:
        with torch.no_grad():
            outputs, mine = self.student(self.x)
            apart = differs(mine, self.oracle(self.x)[1][0])
        if apart is None:
            return None
        same = next((t for t in range(T) if differs(mine, outputs[:, t]) is None), None)
        if same is not None:
            raise Failed(f"it is the state of step {same + 1} of {T}")
        raise Failed(f"it differs by up to {apart:.1e}")

    def honours_h_0(self) -> str | None:
        failures: list[Exception] = []
        for rank in (3, 2):
            self.student.state_rank = rank
            try:
                with torch.no_grad():
                    ignored = differs(self.student(self.x, self.h_0)[0], self.student(self.x)[0]) is None
                if ignored:
                    raise Failed("outputs are the same with it and without")
                self._outputs_with(self.h_0)
                self._state_with_h_0()
                return f"of shape {'(1, B, H)' if rank == 3 else '(B, H)'}"
            except Exception as error:
                failures.append(error)
        # One of two ways to pass it is a mistake of ours; the other says more than that shapes do not fit.
        raise next((f for f in failures if isinstance(f, Failed) and "shape" not in str(f)), failures[-1])

    def _state_with_h_0(self) -> None:
        with torch.no_grad():
            apart = differs(self.student(self.x, self.h_0)[1], self.oracle(self.x, self.h_0.unsqueeze(0))[1][0])
        if apart is not None:
            raise Failed(f"h_n differs by up to {apart:.1e}")

    def weights(self) -> str | None:
        self.student.randomize()
        after, _ = measure(self.student)
        fixed = [
            name
            for name, a, b in zip(("W_ih", "W_hh", "b"), self.known, after, strict=True)
            if bool(((a - b).abs() < TOLERANCE).any())
        ]
        self.known, self.oracle = after, after.layer()
        if fixed:
            raise Failed(f"{', '.join(fixed)}: stays as it is when all parameters change: is it an nn.Parameter?")
        shapes = [f"{name} {tuple(p.shape)}" for name, p in self.student.parameters().items()]
        return ", ".join(shapes)

    def _losses(self, x: Tensor, h_0: Tensor | None) -> tuple[Tensor, Tensor]:
        """Of student and oracle: random sums of all outputs and of h_n."""
        outputs, h_n = self.student(x, h_0)
        theirs, their_h_n = self.oracle(x, None if h_0 is None else h_0.unsqueeze(0))
        r, s = self.random(B, T, H), self.random(B, H)
        return (outputs * r).sum() + (h_n * s).sum(), (theirs * r).sum() + (their_h_n[0] * s).sum()

    def _gradients_agree(self, mine: Tensor, theirs: Tensor, wanted: Tensor) -> str | None:
        if not mine.requires_grad:
            raise Failed("outputs have no gradient: no detach(), .data or no_grad() may stand in the way")
        (given,) = torch.autograd.grad(mine, wanted, allow_unused=True)
        (expected,) = torch.autograd.grad(theirs, wanted)
        if given is None:
            raise Failed("no gradient reaches it")
        apart = differs(given, expected)
        if apart is not None:
            raise Failed(f"it differs by up to {apart:.1e}")
        return f"largest difference {float((given - expected).abs().max()):.1e}"

    def input_gradient(self) -> str | None:
        x = self.x.clone().requires_grad_()
        return self._gradients_agree(*self._losses(x, None), x)

    def h_0_gradient(self) -> str | None:
        h_0 = self.h_0.clone().requires_grad_()
        return self._gradients_agree(*self._losses(self.x, h_0), h_0)

    def weight_gradients(self) -> str | None:
        mine, theirs = self._losses(self.x, None)
        if not mine.requires_grad:
            raise Failed("outputs have no gradient: no detach(), .data or no_grad() may stand in the way")
        parameters = self.student.parameters()
        given = torch.autograd.grad(mine, list(parameters.values()), allow_unused=True)
        oracle = self.oracle
        wanted = (oracle.weight_ih_l0, oracle.weight_hh_l0, oracle.bias_ih_l0)
        expected = Weights(*torch.autograd.grad(theirs, wanted))
        wrong = []
        for (name, p), gradient in zip(parameters.items(), given, strict=True):
            direction = self.random(*p.shape)
            slope = self._slope(p, direction, expected)
            found = 0.0 if gradient is None else float((gradient * direction).sum())
            if abs(found - slope) > 1e-4 * max(1.0, abs(slope)):
                wrong.append(f"{name}: {'no gradient' if gradient is None else 'another gradient'}")
        if wrong:
            raise Failed("; ".join(wrong))
        return None

    def _slope(self, p: nn.Parameter, direction: Tensor, gradients: Weights) -> float:
        """The oracle's loss along a direction of a student's parameter, by differences of the weights."""
        tiny, at = 1e-4, p.detach().clone()
        moved = []
        for sign in (1, -1):
            with torch.no_grad():
                p.copy_(at + sign * tiny * direction)
            moved.append(measure(self.student)[0])
        with torch.no_grad():
            p.copy_(at)
        return sum(float((g * (a - b)).sum()) for g, a, b in zip(gradients, *moved, strict=True)) / (2 * tiny)

    def grade(self) -> Iterator[dict[str, str]]:
        """The verdicts, as they are found."""
        given: set[str] = set()
        for name, examine, built_on in self.points():
            missing = [other for other in built_on if other not in given]
            verdict, remark = "skipped", f"needs {', '.join(missing)}"
            if not missing:
                try:
                    verdict, remark = "pass", examine() or ""
                    given.add(name)
                except (Exception, SystemExit) as error:
                    verdict, remark = "fail", _told(error, self.file)
            yield {"point": name, "verdict": verdict, "remark": remark}


def _told(error: BaseException, file: Path) -> str:
    """An exception in one line; those of the student's code with the line they come from."""
    if isinstance(error, Failed):
        return str(error)
    line = next(iter(str(error).strip().splitlines()), "")
    where, frame = "", error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == str(file):
            where = f" (line {frame.tb_lineno})"
        frame = frame.tb_next
    if isinstance(error, SyntaxError) and error.lineno is not None:
        where = f" (line {error.lineno})"
        line = error.msg
    return f"{type(error).__name__}: {line}{where}" if line else f"{type(error).__name__}{where}"


def main(arguments: list[str]) -> None:
    """Grades the file that is the first argument, into the one that is the second."""
    file, report = map(Path, arguments)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    with report.open("a", encoding="utf-8") as lines:
        for verdict in Grader(file).grade():
            lines.write(json.dumps(verdict) + "\n")
            lines.flush()


if __name__ == "__main__":
    main(sys.argv[1:])


__all__: list[Any] = ["POINTS", "Grader", "Weights", "main", "measure"]
