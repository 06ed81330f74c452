"""The projection of the input is the same product whichever library computes it."""

import os
import subprocess
import sys

import pytest
import torch
from problems import assert_close

import rnnfast
from rnnfast import gemm


@pytest.mark.parametrize("kind", ["padded", "batch_first", "packed"])
def test_a_layer_by_either_library(kind):
    """Large enough for the libraries, with and without oneDNN."""
    layer = rnnfast.RNN(300, 310, bidirectional=True, batch_first=kind == "batch_first")
    data = torch.randn(20, 40, 300)
    results = []
    for enabled in (True, False):
        x = data.clone().requires_grad_()
        input = x if kind != "packed" else torch.nn.utils.rnn.pack_padded_sequence(x, [20] * 30 + [9] * 10)
        with torch.backends.mkldnn.flags(enabled=enabled, allow_tf32=None):
            output, h_n = layer(input)
            output = output.data if kind == "packed" else output
            gradients = torch.autograd.grad(output.sin().sum() + h_n.sum(), [x, *layer.parameters()])
        results.append([output, h_n, *gradients])
    for a, b in zip(*results, strict=True):
        assert_close(a, b)


VERBOSE = """
import sys, torch, rnnfast
layer, x = rnnfast.RNN(512, 512), torch.randn(20, 64, 512)
dtype = torch.float64 if "double" in sys.argv else torch.float32
with torch.no_grad(), torch.backends.mkldnn.flags(enabled="off" not in sys.argv, allow_tf32=None):
    layer.to(dtype)(x.to(dtype))
"""


@pytest.mark.skipif(not gemm.HAS_ONEDNN, reason="this torch has no oneDNN")
@pytest.mark.parametrize(("how", "used"), [("plain", True), ("off", False), ("double", False)])
def test_large_products_go_to_onednn_unless_switched_off(how, used):
    command = [sys.executable, "-c", VERBOSE, how]
    result = subprocess.run(command, env={**os.environ, "ONEDNN_VERBOSE": "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert ("exec,cpu" in result.stdout) == used, result.stdout


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("N", "I", "K"), [(1, 1, 1), (1, 33, 70), (3, 128, 17), (5, 40, 64), (64, 65, 66)])
def test_small_and_library_products_agree(N, I, K, dtype):  # noqa: E741
    """Sizes on both sides of what is done without a library, forward and all gradients."""
    layer, x = rnnfast.RNN(I, K, dtype=dtype), torch.randn(1, N, I, dtype=dtype, requires_grad=True)
    plain = torch.nn.RNN(I, K, dtype=torch.float64)
    plain.load_state_dict(layer.state_dict())
    x64 = x.detach().double().requires_grad_()
    hx = torch.randn(1, N, K, dtype=dtype)
    (output, _), (expected, _) = layer(x, hx), plain(x64, hx.double())
    assert_close(output, expected)
    output.sin().sum().backward()
    expected.sin().sum().backward()
    for a, b in zip((x, *layer.parameters()), (x64, *plain.parameters()), strict=True):
        assert_close(a.grad, b.grad)
