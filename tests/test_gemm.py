"""The projection of the input is the same product whichever library computes it."""

import pytest
import torch
from problems import assert_close

import rnnfast
from rnnfast import gemm


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("worth", [0, float("inf")], ids=["oneDNN", "plain"])
def test_products(worth, contiguous, monkeypatch):
    monkeypatch.setattr(gemm, "WORTH_ONEDNN", worth)
    x, w = torch.randn(9, 7, 33), torch.randn(65, 33)
    if not contiguous:
        x, w = x.transpose(0, 1), torch.randn(33, 65).T
    with torch.no_grad():
        assert_close(gemm.linear(x, w), x.double() @ w.double().T)
        assert_close(gemm.matmul(x[0], w.T), x[0].double() @ w.double().T)


@pytest.mark.parametrize("kind", ["padded", "batch_first", "packed"])
def test_a_layer_by_either_library(kind, monkeypatch):
    layer = rnnfast.RNN(20, 30, num_layers=2, bidirectional=True, batch_first=kind == "batch_first")
    data = torch.randn(6, 5, 20)
    results = []
    for worth in (0, float("inf")):
        monkeypatch.setattr(gemm, "WORTH_ONEDNN", worth)
        x = data.clone().requires_grad_()
        input = x if kind != "packed" else torch.nn.utils.rnn.pack_padded_sequence(x, [6, 5, 3, 3, 1])
        output, h_n = layer(input)
        output = output.data if kind == "packed" else output
        gradients = torch.autograd.grad(output.sin().sum() + h_n.sum(), [x, *layer.parameters()])
        results.append([output, h_n, *gradients])
    for a, b in zip(*results, strict=True):
        assert_close(a, b)


@pytest.mark.skipif(not gemm.HAS_ONEDNN, reason="this torch has no oneDNN, or not the operator known here")
def test_large_products_go_to_onednn_unless_switched_off():
    layer, x = rnnfast.RNN(512, 512), torch.randn(20, 64, 512)

    def operators():
        with torch.no_grad(), torch.profiler.profile() as profile:
            layer(x)
        return {event.key for event in profile.key_averages()}

    assert "mkldnn::_linear_pointwise" in operators()
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):
        assert "mkldnn::_linear_pointwise" not in operators()
    layer, x = layer.double(), x.double()
    assert "mkldnn::_linear_pointwise" not in operators()
