"""Fake CUDA tensors go through operators and layers, and torch.compile traces them, on a machine without a GPU.

Without gradients, for a CPU build of torch cannot record what is done with them; the adjoint is called as an
operator.
"""

import pytest
import torch
from kinds import make, states
from problems import CELLS, draw
from torch._subclasses.fake_tensor import FakeTensorMode

import rnnfast

pytestmark = pytest.mark.skipif(not rnnfast._library.CUDA, reason="rnnfast was built without CUDA")


@pytest.fixture(autouse=True)
def fake():
    torch._dynamo.reset()  # what was compiled too often elsewhere is not compiled again
    with FakeTensorMode() as mode, torch.no_grad():
        yield mode


def empty(*shape):
    return torch.empty(shape, device="cuda")


def on_fake_cuda(module):
    for name, p in list(module._parameters.items()):
        module._parameters[name] = torch.nn.Parameter(empty(*p.shape), requires_grad=False)
    return module


def test_layers(kind):
    layer = on_fake_cuda(make(kind, 4, 6, bidirectional=True, num_layers=2))
    output, hx = layer(empty(5, 3, 4))
    width = layer.proj_size or 6
    assert output.shape == (5, 3, 2 * width)
    assert states(hx)[0].shape == (4, 3, width)
    assert all(t.is_cuda for t in (output, *states(hx)))


@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells(kind):
    h = states(on_fake_cuda(make(kind, 4, 6))(empty(3, 4)))
    assert all(t.is_cuda and t.shape == (3, 6) for t in h)


@pytest.mark.parametrize("cell", CELLS)
def test_operators(cell):
    p = draw(5, 3, 6, 2, torch.float32, cell=cell)
    p = type(p)(**{n: empty(*t.shape) if isinstance(t, torch.Tensor) else t for n, t in vars(p).items()})
    results = p.forward(saves=True)
    gradients = p.gradients(results)
    assert all(t.is_cuda for t in (*results, *gradients.values()))
    assert all(gradients[name].shape == t.shape for name, t in p.inputs().items())


def test_compile(kind):
    layer = on_fake_cuda(make(kind, 4, 6))
    called = []

    def backend(graph, inputs):
        called.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    output, _ = torch.compile(layer, backend=backend, fullgraph=True)(empty(5, 3, 4))
    assert output.is_cuda
    assert any("rnnfast.recurrence" in name for name in called)
