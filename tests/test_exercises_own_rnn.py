"""exercise own-rnn: right solutions of every make pass, wrong ones fail where they are wrong, broken ones end."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from rnnfast.__main__ import main
from rnnfast.recipes.exercises import grading, own_rnn
from rnnfast.recipes.exercises.grading import POINTS, Grader

HEAD = """
import torch
from torch import nn

class MyRNN(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.hidden_size = hidden_size
        self.x = nn.Linear(input_size, hidden_size)
        self.h = nn.Linear(hidden_size, hidden_size)

    def forward(self, x, h_0=None):
        h = torch.zeros(len(x), self.hidden_size) if h_0 is None else h_0.reshape(len(x), -1)
        outputs = []
        for t in range(x.size(1)):
            h = torch.tanh(self.x(x[:, t]) + self.h(h))
            outputs.append(h)
        return torch.stack(outputs, 1), h
"""
ONE_MATRIX = """
import torch
class MyRNN(torch.nn.Module):
    def __init__(self, i, h):
        super().__init__()
        self.both = torch.nn.Parameter(torch.empty(i + h, h).uniform_(-0.1, 0.1))
        self.bias = torch.nn.Parameter(torch.zeros(1, h))
        self.unused = torch.nn.Parameter(torch.ones(3))
    def forward(self, x, h_0=None):
        B, T, _ = x.shape
        state = x.new_zeros(1, B, self.bias.size(1)) if h_0 is None else h_0
        assert state.dim() == 3
        outputs = torch.empty(B, T, self.bias.size(1))
        steps = []
        for x_t in x.transpose(0, 1):
            state = (torch.cat([x_t, state[0]], 1) @ self.both + self.bias).tanh()[None]
            steps.append(state)
        return torch.cat(steps).transpose(0, 1), state
"""
LOG_SCALE = """
import torch
class MyRNN(torch.nn.Module):
    def __init__(self, i, h):
        super().__init__()
        self.cell = torch.nn.RNNCell(i, h)
        self.log_scale = torch.nn.Parameter(torch.zeros(h))
    def forward(self, x, h_0=None):
        h = h_0
        outputs = []
        for t in range(x.shape[1]):
            a = x[:, t] @ self.cell.weight_ih.T * self.log_scale.exp() + self.cell.bias_ih
            a = a if h is None else a + h @ self.cell.weight_hh.T
            h = torch.tanh(a)
            outputs.append(h)
        return torch.stack(outputs, dim=1), h
"""
# What is changed in HEAD, the first point that is then failed, and what is said of it.
WRONG = {
    "no tanh": ("torch.tanh(self.x(x[:, t]) + self.h(h))", "self.x(x[:, t]) + self.h(h)", "step", "is it applied"),
    "sigmoid": ("torch.tanh", "torch.sigmoid", "step", "the first step is not tanh of an affine function"),
    "no recurrence": ("+ self.h(h))", ")", "step", "the second step does not depend on the first"),
    "square of h": (
        "self.h(h))",
        "self.h(h * h))",
        "step",
        "the second step does not add a linear function of h_1",
    ),
    "time first": ("range(x.size(1))", "range(len(x))", "shapes", ""),
    "rows mixed": (
        "h = torch.tanh(",
        "h = torch.tanh(0.1 * h.mean(0) + ",
        "rows",
        "one row alone gives something",
    ),
    "h_0 ignored": ("if h_0 is None else h_0.reshape(len(x), -1)", "", "h_0", "the same with it and without"),
    "h_0 halved": (
        "else h_0.reshape",
        "else 0.5 * h_0.reshape",
        "h_0",
        "they differ by up to .*, first at step 1 of 7",
    ),
    "first state returned": (", 1), h\n", ", 1), outputs[0]\n", "h_n", "it is the state of step 1 of 7"),
    "another state returned": (", 1), h\n", ", 1), -h\n", "h_n", "it differs by up to"),
    "reversed outputs": ("torch.stack(outputs, 1)", "torch.stack(outputs[::-1], 1)", "step", ""),
    "late scaling": (
        "outputs.append(h)",
        "outputs.append(h)\n            h = h * (0.9 if t == 4 else 1)",
        "outputs",
        "they differ by up to .*, first at step 6 of 7",
    ),
    "state kept between calls": (
        "        return",
        "        self.last = self.last + 1 if hasattr(self, 'last') else 0\n"
        "        outputs[0] = outputs[0] * 0.9**self.last\n"
        "        return",
        "rows",
        "a second call with the same input",
    ),
    "input changed": ("outputs = []", "outputs = []; x *= 2", "rows", ""),
    "detached between steps": ("self.h(h))", "self.h(h.detach()))", "input gradient", "it differs by up to"),
    "outputs detached": (
        "return torch.stack(outputs, 1), h",
        "return torch.stack(outputs, 1).detach(), h.detach()",
        "input gradient",
        "outputs have no gradient",
    ),
    "weights outside": (
        "self.h = nn.Linear(hidden_size, hidden_size)",
        "w = torch.randn(hidden_size, hidden_size) / 4; self.h = lambda h: h @ w.double()",
        "weights",
        "W_hh: stays as it is when all parameters change",
    ),
    "weights detached": (
        "self.h(h))",
        "h @ self.h.weight.detach().T + self.h.bias)",
        "weight gradients",
        "h.weight: no gradient",
    ),
    "one output": (
        "return torch.stack(outputs, 1), h",
        "return torch.stack(outputs, 1)",
        "shapes",
        r"forward returns Tensor, expected \(outputs, h_n\)",
    ),
    "lists": (
        "return torch.stack(outputs, 1), h",
        "return outputs, h",
        "shapes",
        "outputs is list, expected a tensor",
    ),
    "not finite": (
        "torch.tanh(",
        "float('nan') * torch.tanh(",
        "shapes",
        "outputs has values that are not finite",
    ),
    "an exception": (
        "outputs = []",
        "outputs = undefined",
        "shapes",
        r"NameError: name 'undefined' .*\(line 14\)",
    ),
    "no forward": ("def forward", "def backward", "shapes", "NotImplementedError"),
    "other arguments": ("input_size, hidden_size):", "hidden_size):", "constructs", "TypeError: .*argument"),
    "no module": ("(nn.Module)", "", "constructs", ""),
    "another name": ("class MyRNN", "class RNN", "constructs", "there is no class MyRNN in it"),
    "syntax": ("def forward(", "def forward((", "constructs", r"SyntaxError: .*\(line \d+\)"),
    "an exit": ("import torch\n", "import torch\nraise SystemExit(3)\n", "constructs", "SystemExit: 3"),
}


@pytest.fixture(autouse=True)
def float64():
    """As in the process that grades."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def grade(code, tmp_path):
    """In this process, since one for each would take seconds."""
    file = tmp_path / "mine.py"
    file.write_text(code)
    return {v["point"]: v for v in Grader(file).grade()}


def failed(verdicts):
    return [name for name, v in verdicts.items() if v["verdict"] == "fail"]


@pytest.mark.parametrize("code", [HEAD, ONE_MATRIX, LOG_SCALE], ids=["two maps", "one matrix", "scaled weights"])
def test_right_solutions_of_every_make_pass(code, tmp_path):
    verdicts = grade(code, tmp_path)
    assert list(verdicts) == list(POINTS)
    assert {name: v["remark"] for name, v in verdicts.items() if v["verdict"] != "pass"} == {}


def test_torchs_own_layer_passes(tmp_path):
    code = HEAD.split("    def __init__")[0] + (
        "    def __init__(self, i, h):\n"
        "        super().__init__()\n"
        "        self.rnn = nn.RNN(i, h, batch_first=True)\n"
        "    def forward(self, x, h_0=None):\n"
        "        return self.rnn(x, h_0)\n"
    )
    verdicts = grade(code, tmp_path)
    assert [v["verdict"] for v in verdicts.values()] == ["pass"] * len(POINTS)
    assert verdicts["h_0"]["remark"] == "of shape (1, B, H)"


@pytest.mark.parametrize("how", WRONG)
def test_wrong_solutions_fail_where_they_are_wrong(how, tmp_path):
    old, new, point, remark = WRONG[how]
    assert old in HEAD
    verdicts = grade(HEAD.replace(old, new, 1), tmp_path)
    assert failed(verdicts)[0] == point
    assert re.search(remark, verdicts[point]["remark"]), verdicts[point]["remark"]
    assert all("\n" not in v["remark"] for v in verdicts.values())


def test_the_weights_that_are_measured_are_the_students(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(HEAD)
    spec = importlib.util.spec_from_file_location("right", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.MyRNN(grading.I, grading.H)
    found, left = grading.measure(grading.Student(model))
    assert torch.allclose(found.w_ih, model.x.weight, atol=1e-11)
    assert torch.allclose(found.w_hh, model.h.weight, atol=1e-11)
    assert torch.allclose(found.b, model.x.bias + model.h.bias, atol=1e-11)
    assert max(left.values()) < 1e-12


def run(tmp_path, capsys, *options, code=None):
    if code is not None:
        (tmp_path / "mine.py").write_text(code)
        options = ("--check", str(tmp_path / "mine.py"), *options)
    status = main(["exercise", "own-rnn", *options, "--output", str(tmp_path / "out")])
    return status, *capsys.readouterr()


def test_the_command_shows_a_solution(tmp_path, capsys):
    status, out, _ = run(tmp_path, capsys)
    assert status == 0
    assert f"{len(POINTS)} of {len(POINTS)} points" in out
    assert out.count("  pass  ") == len(POINTS)


def test_the_command_on_a_wrong_file(tmp_path, capsys):
    status, out, _ = run(tmp_path, capsys, code=HEAD.replace("self.h(h))", "self.h(h.detach()))"))
    assert status == 1
    assert "FAIL  the gradient of the input is torch.nn.RNN's" in out
    assert "mine.py, beside torch.nn.RNN in float64:" in out


@pytest.mark.parametrize(
    ("code", "limit", "said"),
    [
        ("while True: pass", "3", "stopped after 3 s: does a loop never end"),
        ("import os; os._exit(7)", "60", "the process ended with status 7"),
        ("import os; os.kill(os.getpid(), 11)", "60", "the process was ended by SIGSEGV"),
    ],
    ids=["endless", "exit", "crash"],
)
def test_a_file_that_does_not_let_itself_be_graded(code, limit, said, tmp_path, capsys):
    status, out, err = run(tmp_path, capsys, "--time-limit", limit, code=code)
    assert status == 1
    assert said in out
    assert "Traceback" not in out + err
    assert "  pass  " not in out


@pytest.mark.slow
def test_what_was_graded_before_a_loop_that_never_ends_is_kept(tmp_path, capsys):
    endless = "outputs = []\n        while x.size(1) == 7 and h_0 is not None: pass"
    status, out, _ = run(tmp_path, capsys, "--time-limit", "20", code=HEAD.replace("outputs = []", endless))
    assert status == 1
    assert out.count("  pass  ") == 6
    assert out.index("FAIL") > out.index("h_n is torch.nn.RNN's")
    assert "6 of 11 points; stopped after 20 s" in out


def test_a_file_that_is_not_there(tmp_path, capsys):
    status, out, err = run(tmp_path, capsys, "--check", str(tmp_path / "none.py"))
    assert (status, out) == (2, "")
    assert err == f"rnnfast exercise own-rnn: --check: {tmp_path / 'none.py'} is no file\n"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")
def test_no_process_is_left(tmp_path):
    code = """
import subprocess, time
child = subprocess.Popen(["sleep", "600"])
open("{}", "w").write(str(child.pid))
time.sleep(600)
"""
    pid = tmp_path / "pid"
    file = tmp_path / "mine.py"
    file.write_text(code.format(pid))
    verdicts, remark = own_rnn.grade(file, 4)
    assert "stopped after 4 s" in remark
    assert verdicts[0]["verdict"] == "fail"
    status = Path("/proc") / pid.read_text() / "status"
    assert not status.exists() or "State:\tZ" in status.read_text()
