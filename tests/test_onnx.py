"""ONNX: what ONNX Runtime makes of an exported layer, at other sizes."""

import warnings

import numpy as np
import pytest
import torch
from kinds import make, random_hx, states
from torch import nn
from torch.export import Dim

import rnnfast

onnx = pytest.importorskip("onnx", reason="needs the extra rnnfast[onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra rnnfast[onnx]")
KINDS = ["RNN", "LSTM", "GRU"]
OPTIONS = [
    {},
    dict(num_layers=2, bidirectional=True, batch_first=True),
    dict(bias=False, num_layers=2),
    dict(bidirectional=True, nonlinearity="relu"),
]


def exported(model, path, *args, batch_first=False, table=rnnfast.onnx.translation_table):
    """With dynamic T and B."""
    T, B = Dim("T", max=4096), Dim("B", max=4096)
    of_states = [tuple({1: B} for _ in states(hx)) for hx in args[1:]]
    of_states = [s if isinstance(hx, tuple) else s[0] for s, hx in zip(of_states, args[1:], strict=True)]
    shapes = ({0: B, 1: T} if batch_first else {0: T, 1: B}, *of_states)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="# The axis name: B will not be used")  # states share it
        program = torch.onnx.export(
            model, args, dynamo=True, dynamic_shapes=shapes, custom_translation_table=table(), verbose=False
        )
    program.save(path)
    return onnx.load(path)


def run(path, *args):
    session = onnxruntime.InferenceSession(path)
    leaves = [args[0], *(s for hx in args[1:] for s in states(hx))]
    names = [given.name for given in session.get_inputs()]
    return session.run(None, {name: t.numpy() for name, t in zip(names, leaves, strict=True)})


@pytest.mark.parametrize(
    ("options", "with_hx"), [(options, i % 2 > 0) for i, options in enumerate(OPTIONS)], ids=str
)
@pytest.mark.parametrize("name", KINDS)
def test_the_same_numbers_at_other_sizes(name, options, with_hx, tmp_path):
    options = {k: v for k, v in options.items() if k != "nonlinearity" or name == "RNN"}
    layer = make(name, 3, 4, **options).eval()
    lead = layer.num_layers * (2 if layer.bidirectional else 1)

    def arguments(T, B):
        x = torch.randn(B, T, 3) if layer.batch_first else torch.randn(T, B, 3)
        return x, *([random_hx(layer, lead, B)] if with_hx else [])

    path = tmp_path / "layer.onnx"
    graph = exported(layer, path, *arguments(5, 2), batch_first=layer.batch_first).graph
    nodes = [node.op_type for node in graph.node]
    assert nodes.count(name) == layer.num_layers
    assert not {"Loop", "Scan", "MatMul", "Gemm"} & set(nodes)
    assert not any(node.domain not in ("", "ai.onnx") for node in graph.node)
    for T, B in ((9, 7), (1, 2), (40, 3)):
        args = arguments(T, B)
        output, last = layer(*args)
        for found, expected in zip(run(path, *args), [output, *states(last)], strict=True):
            np.testing.assert_allclose(found, expected.detach().numpy(), atol=2e-5)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 3)
        self.rnn = rnnfast.LSTM(3, 4, 2, bidirectional=True, dropout=0.5, batch_first=True)
        self.readout = nn.Linear(8, 5)

    def forward(self, tokens):
        return self.readout(self.rnn(self.embedding(tokens))[0])


def test_a_model(tmp_path):
    model = Tagger().eval()
    path = tmp_path / "model.onnx"
    exported(model, path, torch.randint(0, 20, (2, 5)), batch_first=True)
    tokens = torch.randint(0, 20, (4, 11))
    np.testing.assert_allclose(run(path, tokens)[0], model(tokens).detach().numpy(), atol=2e-5)


def causes(error):
    """What an error says, and what it came from."""
    return [] if error is None else [str(error), *causes(error.__cause__)]


def test_what_onnx_does_not_have(tmp_path):
    with pytest.raises(Exception) as raised:
        exported(rnnfast.LSTM(3, 4, proj_size=2).eval(), tmp_path / "layer.onnx", torch.randn(5, 2, 3))
    said = causes(raised.value)
    assert any("w_hr: got an LSTM with a projection, which ONNX's LSTM does not have" in line for line in said)


@pytest.mark.contrast
@pytest.mark.parametrize("name", KINDS)
def test_torchs_layers_keep_the_number_of_steps(name, tmp_path):
    """Ours would be no news if they did not."""
    layer, path, x = getattr(nn, name)(3, 4).eval(), tmp_path / "layer.onnx", torch.randn(9, 7, 3)

    def at_another_size():
        exported(layer, path, torch.randn(5, 2, 3), table=dict)
        np.testing.assert_allclose(run(path, x)[0], layer(x)[0].detach().numpy(), atol=2e-5)

    steps = "Reshape|Got invalid dimensions|Constraints violated"  # of ONNX Runtime, or of torch's export
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has several to give
        with pytest.raises(Exception, match=steps):
            at_another_size()
