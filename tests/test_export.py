"""torch.export: any number of steps and rows, one operator a layer, saved and run elsewhere."""

import sys

import pytest
import torch
from kinds import KINDS, make, random_hx, states
from programs import execute
from torch import nn
from torch.export import Dim, export

import rnnfast

OPTIONS = dict(num_layers=2, bidirectional=True, batch_first=True)


def flat(results):
    output, last = results
    return [output, *states(last)]


def exported(layer, *args, fixed_steps=False, strict=False):
    """With dynamic T and B."""
    time, rows = (1, 0) if layer.batch_first else (0, 1)
    B = Dim("B", max=4096)
    shapes = [{rows: B} if fixed_steps else {time: Dim("T", max=4096), rows: B}]
    if len(args) > 1:
        shapes.append(tuple({1: B} for _ in args[1]) if isinstance(args[1], tuple) else {1: B})
    return export(layer, args, dynamic_shapes=tuple(shapes), strict=strict)


@pytest.mark.parametrize("with_hx", [True, False])
@pytest.mark.parametrize("strict", [True, False])
def test_other_sizes_and_gradients(kind, strict, with_hx):
    layer = make(kind, 3, 4, **OPTIONS)

    def arguments(B, T):
        return torch.randn(B, T, 3), *([random_hx(layer, 4, B)] if with_hx else [])

    program = exported(layer, *arguments(2, 5), strict=strict)
    called = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert called.count(torch.ops.rnnfast.recurrence.default) == layer.num_layers
    assert torch.ops.rnnfast.recurrence_bptt.default not in called
    module = program.module()
    for B, T in ((3, 7), (1, 2), (6, 9)):
        args = arguments(B, T)
        torch.testing.assert_close(flat(module(*args)), flat(layer(*args)))
        found, expected = [
            torch.autograd.grad(sum(r.sin().sum() for r in flat(m(*args))), list(m.parameters()))
            for m in (module, layer)
        ]
        expected = dict(zip([n for n, _ in layer.named_parameters()], expected, strict=True))
        found = dict(zip([n for n, _ in module.named_parameters()], found, strict=True))
        torch.testing.assert_close(found, {name: expected[name] for name in found})


RUN = """
import sys
import torch
{prelude}
for path, x, expected in torch.load(sys.argv[1]):
    for found, wanted in zip(torch.utils._pytree.tree_leaves({load}(x)), expected, strict=True):
        torch.testing.assert_close(found, wanted)
assert ("rnnfast" in sys.modules) == {imports}
print("the same")
"""


def run_elsewhere(tmp_path, cases, imports=True, load="torch.export.load(path).module()"):
    """In a new process: saved programs, the layers they were, and inputs."""
    expected = [(str(path), x, [r.detach() for r in flat(layer(x))]) for path, layer, x in cases]
    torch.save(expected, tmp_path / "cases.pt")
    prelude = "import rnnfast" if imports else ""
    (tmp_path / "run.py").write_text(RUN.format(prelude=prelude, load=load, imports=imports))
    done = execute([sys.executable, tmp_path / "run.py", tmp_path / "cases.pt"])
    assert done.stdout == "the same\n", done.stderr


def test_saved_programs_run_in_a_process_that_imports_rnnfast(tmp_path):
    cases = []
    for kind in KINDS:
        layer, path = make(kind, 3, 4, **OPTIONS), tmp_path / f"{kind}.pt2"
        torch.export.save(exported(layer, torch.randn(2, 5, 3)), path)
        cases.append((path, layer, torch.randn(3, 7, 3)))
    run_elsewhere(tmp_path, cases)


def test_decomposed_they_run_without_rnnfast(tmp_path):
    cases = []
    for kind in KINDS:
        layer, path = make(kind, 3, 4, bidirectional=True, batch_first=True), tmp_path / f"{kind}.pt2"
        program = exported(layer, torch.randn(2, 3, 3), fixed_steps=True)
        program = program.run_decompositions(rnnfast.export.decompositions())
        assert not any("rnnfast" in str(node.target) for node in program.graph.nodes)
        torch.export.save(program, path)
        cases.append((path, layer, torch.randn(6, 3, 3)))
    run_elsewhere(tmp_path, cases, imports=False)


def test_decomposing_wants_a_fixed_number_of_steps():
    program = exported(rnnfast.GRU(3, 4), torch.randn(5, 2, 3))
    with pytest.raises(Exception, match="steps: got a dynamic number, expected a fixed number of steps"):
        program.run_decompositions(rnnfast.export.decompositions())


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells(name):
    cell = make(name, 3, 4)
    program = export(cell, (torch.randn(2, 3),), dynamic_shapes=({0: Dim("B", max=4096)},))
    x = torch.randn(5, 3)
    for form in (program, program.run_decompositions(rnnfast.export.decompositions())):
        torch.testing.assert_close(form.module()(x), cell(x))


@pytest.mark.slow
def test_ahead_of_time_by_inductor(tmp_path):
    cases = []
    for kind in KINDS:
        layer = make(kind, 3, 4, **OPTIONS).requires_grad_(False)
        program, path = exported(layer, torch.randn(2, 5, 3)), str(tmp_path / f"{kind}.pt2")
        cases.append(
            (torch._inductor.aoti_compile_and_package(program, package_path=path), layer, torch.randn(3, 7, 3))
        )
    run_elsewhere(tmp_path, cases, load="torch._inductor.aoti_load_package(path)")


@pytest.mark.contrast
@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_torchs_layers_keep_the_number_of_steps(name):
    """Ours would be no news if they did not."""
    with pytest.raises(Exception, match=r"Constraints violated|were assigned during export"):
        exported(getattr(nn, name)(3, 4), torch.randn(5, 2, 3))


def test_decomposing_refuses_what_torchs_operators_do_not_have():
    program = exported(rnnfast.GRU(3, 4, bptt_clip=0.5), torch.randn(5, 2, 3), fixed_steps=True)
    with pytest.raises(Exception, match=r"bptt_clip: got 0.5, which torch's operators do not have"):
        program.run_decompositions(rnnfast.export.decompositions())
