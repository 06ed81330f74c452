"""Matrix products of a layer, of sizes around those at which they are computed in another way."""

import pytest
import torch
from problems import assert_close

import rnnfast


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("N", "I", "K"),
    [
        (1, 1, 1),
        (1, 33, 70),
        (3, 128, 17),
        (5, 40, 64),
        (64, 65, 66),
        (400, 130, 300),
        (600, 70, 129),
        (520, 300, 64),
    ],
)
def test_products_of_a_layer(N, I, K, dtype):  # noqa: E741
    """Forward and all gradients."""
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
