"""The same layer in ONNX Runtime and in JAX, with the weights of one of torch.nn: further peers to time.

Extra ``peers`` installs both; each is imported only where it is asked for. A peer is compared with the torch layer
when it is made, and refused if it computes something else.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Array = np.ndarray
ORT, JAX = "ONNX Runtime", "JAX"
MODULES = {ORT: ("onnxruntime", "onnx"), JAX: ("jax",)}
TOLERANCE = 1e-4

# The operator's name, its attributes, and which of torch's gates stand where in ONNX.
ONNX_NODES: dict[str, tuple[str, dict[str, Any], list[int]]] = {
    "RNN_TANH": ("RNN", {"activations": ["Tanh"]}, [0]),
    "LSTM": ("LSTM", {}, [0, 3, 1, 2]),  # i o f c from i f g o
    "GRU": ("GRU", {"linear_before_reset": 1}, [1, 0, 2]),  # z r h from r z n
}
# Old on purpose: by default onnx may write newer files than the ONNX Runtime beside it reads.
ONNX_OPSET, ONNX_IR = 14, 8


def available() -> dict[str, str]:
    """The versions, by name, of the peers that import."""
    found = {}
    for name, modules in MODULES.items():
        try:
            peer, *_ = map(importlib.import_module, modules)
        except ImportError:
            continue
        found[name] = peer.__version__
    return found


def onnxruntime_forward(layer: nn.RNNBase, x: Tensor) -> Callable[[], None]:
    """A call of ONNX Runtime's operator on x, by io-binding, which is faster than ``session.run``.

    The input is x's own memory; the outputs are allocated by the first call and written again by every other. It
    has as many threads as torch, and they spin for 40 ms after a call, which slows whatever is timed next with
    more than one thread. That default is the best for it: with ``session.intra_op.allow_spinning`` 0, on two
    cores, an LSTM of T100 B1 H256 took 1.6 ms in place of 1.0, an RNN of T100 B32 H128 8.1 in place of 6.6, one of
    T1000 B8 H128 26 in place of 18; an LSTM and a GRU of T100 B32 H128 took as long as before.
    """
    import onnxruntime

    check_layer(layer, x)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    model = onnx_model(layer).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("x", to_numpy(x))
    for output in session.get_outputs():
        binding.bind_output(output.name)

    def call() -> None:
        session.run_with_iobinding(binding)

    call()
    check_same(ORT, binding.copy_outputs_to_cpu(), torch_forward(layer, x))
    return call


def jax_forward(layer: nn.RNNBase, x: Tensor) -> Callable[[], None]:
    """A call of the layer on x in JAX: y and the last states.

    XLA's threads cannot be set per call: it uses as many as there are processors, whatever torch uses.
    """
    import jax

    check_layer(layer, x)
    function = jax.jit(jax_layer(layer.mode))
    arguments = to_jax(x, *layer.all_weights[0])
    check_same(JAX, jax.tree.leaves(function(*arguments)), torch_forward(layer, x))

    def call() -> None:
        jax.block_until_ready(function(*arguments))

    return call


def jax_training(layer: nn.RNNBase, x: Tensor, dy: Tensor) -> Callable[[], None]:
    """A call of forward and backward in JAX: sum(y * dy), and its gradients for x and all weights.

    XLA's threads cannot be set per call: it uses as many as there are processors, whatever torch uses.
    """
    import jax

    check_layer(layer, x)
    forward = jax_layer(layer.mode)

    def loss(operands: Sequence[Any], dy: Any) -> Any:
        y, _ = forward(*operands)
        return (y * dy).sum()

    function = jax.jit(jax.value_and_grad(loss))
    *operands, dy_jax = to_jax(x, *layer.all_weights[0], dy)
    _, gradients = function(operands, dy_jax)
    check_same(JAX, gradients, torch_gradients(layer, x, dy))

    def call() -> None:
        jax.block_until_ready(function(operands, dy_jax))

    return call


def check_layer(layer: nn.RNNBase, x: Tensor) -> None:
    """Refuses what the peers have no form for."""
    plain = (
        layer.mode in ONNX_NODES
        and layer.num_layers == 1
        and layer.bias
        and not (layer.bidirectional or layer.batch_first or layer.proj_size)
    )
    float32 = all(t.dtype == torch.float32 and t.device.type == "cpu" for t in (x, *layer.parameters()))
    if not (plain and float32 and x.dim() == 3):
        raise ValueError(
            "a peer is one layer of RNN tanh, LSTM or GRU, one way, with bias, time-major, float32 on the CPU; "
            f"not {layer} on {x.dtype} of shape {tuple(x.shape)}"
        )


def onnx_model(layer: nn.RNNBase) -> Any:
    """A model of one node: x to y and the last states."""
    from onnx import TensorProto, helper, numpy_helper

    op, attributes, order = ONNX_NODES[layer.mode]
    H = layer.hidden_size

    def reordered(parameter: Tensor) -> Array:
        gates = to_numpy(parameter).reshape(len(order), H, -1)[order]
        return gates.reshape(1, *parameter.shape)

    w, r, *biases = map(reordered, layer.all_weights[0])
    weights = {"w": w, "r": r, "b": np.concatenate(biases, axis=1)}
    outputs = ["y", "h", "c"] if op == "LSTM" else ["y", "h"]
    node = helper.make_node(op, ["x", *weights], outputs, hidden_size=H, **attributes)

    def value(name: str, *shape: int | str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [node],
        "layer",
        [value("x", "T", "B", layer.input_size)],
        [value("y", "T", 1, "B", H), *(value(state, 1, "B", H) for state in outputs[1:])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", ONNX_OPSET)], ir_version=ONNX_IR)


def jax_layer(mode: str) -> Callable[..., Any]:
    """(x, w_ih, w_hh, b_ih, b_hh) to y and the last states, for a layer of torch's of that mode.

    The weights stand on the left of both products: for one row XLA is several times slower with h @ w_hh.T.
    """
    import jax
    import jax.numpy as jnp

    def rnn(gates: Any, recurrent: Any, h: Any) -> tuple[Any, ...]:
        return (jnp.tanh(gates + recurrent),)

    def lstm(gates: Any, recurrent: Any, h: Any, c: Any) -> tuple[Any, ...]:
        i, f, g, o = jnp.split(gates + recurrent, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    def gru(gates: Any, recurrent: Any, h: Any) -> tuple[Any, ...]:
        H = h.shape[-1]
        r, z = jnp.split(jax.nn.sigmoid(gates[:, : 2 * H] + recurrent[:, : 2 * H]), 2, axis=-1)
        n = jnp.tanh(gates[:, 2 * H :] + r * recurrent[:, 2 * H :])
        return ((1 - z) * n + z * h,)

    cell, states = {"RNN_TANH": (rnn, 1), "LSTM": (lstm, 2), "GRU": (gru, 1)}[mode]

    def forward(x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
        def step(state: tuple[Any, ...], gates: Any) -> tuple[tuple[Any, ...], Any]:
            state = cell(gates, jnp.einsum("gh,bh->bg", w_hh, state[0]) + b_hh, *state)
            return state, state[0]

        zeros = jnp.zeros((x.shape[1], w_hh.shape[1]), x.dtype)
        last, y = jax.lax.scan(step, (zeros,) * states, jnp.einsum("gi,tbi->tbg", w_ih, x) + b_ih)
        return y, last

    return forward


def to_numpy(tensor: Tensor) -> Array:
    return tensor.detach().contiguous().numpy()


def to_jax(*tensors: Tensor) -> list[Any]:
    """Copies on JAX's CPU, where whatever is computed from them then runs."""
    import jax

    cpu = jax.devices("cpu")[0]
    return [jax.device_put(to_numpy(tensor).copy(), cpu) for tensor in tensors]


def torch_forward(layer: nn.RNNBase, x: Tensor) -> list[Tensor]:
    """y and the last states."""
    with torch.no_grad():
        y, last = layer(x)
    return [y, *(last if isinstance(last, tuple) else (last,))]


def torch_gradients(layer: nn.RNNBase, x: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    """For x and all weights; leaves the layer's ``grad`` alone."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(layer(x)[0], [x, *layer.all_weights[0]], dy)


def check_same(peer: str, results: Sequence[Any], expected: Sequence[Tensor]) -> None:
    """Refuses a peer whose results are not torch's; ONNX has an axis more, for the direction."""
    for result, tensor in zip(results, expected, strict=True):
        array = to_numpy(tensor)
        error, largest = np.abs(np.asarray(result).reshape(array.shape) - array).max(), np.abs(array).max()
        if not error <= TOLERANCE * largest:  # NaN too
            raise RuntimeError(f"{peer} is {error:.2g} off torch.nn, where the largest value is {largest:.2g}")
