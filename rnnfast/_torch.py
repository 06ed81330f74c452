"""What torch has under no public name, and the operators' registrations cannot do without."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad, profiler

try:
    from torch._functorch.eager_transforms import enable_inplace_requires_grad
    from torch._functorch.utils import enable_single_level_autograd_function, unwrap_dead_wrappers
    from torch.autograd.function import _SingleLevelFunction

    # Calls an operator past its derivatives.
    below_autograd = torch._C._AutoDispatchBelowAutograd
    # Whether torch.func's transforms are at work in this thread.
    transformed = torch._C._are_functorch_transforms_active
    is_batched = torch._C._functorch.is_batchedtensor
    is_traced_by_jit = torch._C._get_tracing_state
    _dispatch_modes = torch._C._len_torch_dispatch_stack
    # Unlike torch.compiler.disable, does not import Dynamo before what it returns is called.
    hidden_from_dynamo = torch._disable_dynamo
    any_autocast = torch._C._is_any_autocast_enabled
    _interpreters = torch._C._functorch.get_interpreter_stack
    _JVP = torch._C._functorch.TransformType.Jvp
    _is_legacy_batched = torch._C._functorch.is_legacy_batchedtensor
    _is_excluded = torch._C._dispatch_tls_is_dispatch_key_excluded
    _FRONT = torch._C.DispatchKey.FuncTorchDynamicLayerFrontMode
    _unpack_dual = torch._VF._unpack_dual
    profiler._is_profiler_enabled, forward_ad._current_level, torch.compiler._is_compiling_flag  # noqa: B018
except (ImportError, AttributeError) as error:
    raise ImportError(
        f"rnnfast: torch {torch.__version__} lacks what rnnfast was written against, torch 2.10 to 2.15: {error}"
    ) from error

_P = ParamSpec("_P")
_R = TypeVar("_R")


def is_compiling() -> bool:
    """Whether a compiler is at work, which is to see the operators themselves."""
    return torch.compiler.is_dynamo_compiling() or torch.compiler._is_compiling_flag


def forward_mode_is_on() -> bool:
    """Whether any thread is at forward-mode derivatives."""
    return forward_ad._current_level >= 0


def in_forward_mode(args: Iterable[Any]) -> bool:
    """Whether the tensors among these may be differentiated in forward mode, also by torch.func.jvp and its like.

    Under other transforms their tangents are not to be seen, so that any jvp around them counts.
    """
    if not forward_mode_is_on():
        return False
    if torch.compiler.is_dynamo_compiling() or any(level.key() == _JVP for level in _interpreters() or ()):
        return True
    return any(isinstance(t, Tensor) and _unpack_dual(t, level=0)[1] is not None for t in args)


def in_dispatch_mode() -> bool:
    """Whether something is shown every operator that is called, to trace, to count, or to call others."""
    return _dispatch_modes() > 0


def in_legacy_vmap(*tensors: Tensor | None) -> bool:
    """Whether a backward is run for many gradients at once, as by ``is_grads_batched=True``."""
    return any(t is not None and _is_legacy_batched(t) for t in tensors)


class KernelsFunction(_SingleLevelFunction):
    """A Function within an operator's kernel, which torch.func does not take over: its transforms wait above it.

    Nor does torch bind its signature at each call for torch.func's sake.
    """

    _compiled_autograd_key = staticmethod(Function._compiled_autograd_key)


def apply(function: type[KernelsFunction], *args: Any) -> Any:
    """``function.apply``, for the transform that is calling."""
    if transformed():
        with enable_single_level_autograd_function():
            return function.apply(*args)
    return function.apply(*args)


def is_within_a_kernel() -> bool:
    """Whether this runs for an operator that torch.func's transforms, which are at work, are calling already."""
    return transformed() and _is_excluded(_FRONT)


def differentiable(t: Tensor) -> Tensor:
    """The same, with gradients; torch.func lets no one say so without asking."""
    if not transformed():
        return t.requires_grad_()
    with enable_inplace_requires_grad(True):
        return t.requires_grad_()


def without_autocast(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, in the dtypes that it is given."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not any_autocast():
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return call


__all__ = [
    "KernelsFunction",
    "any_autocast",
    "apply",
    "below_autograd",
    "differentiable",
    "forward_mode_is_on",
    "hidden_from_dynamo",
    "in_dispatch_mode",
    "in_forward_mode",
    "in_legacy_vmap",
    "is_batched",
    "is_compiling",
    "is_traced_by_jit",
    "is_within_a_kernel",
    "transformed",
    "unwrap_dead_wrappers",
    "without_autocast",
]
