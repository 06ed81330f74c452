"""Swapping torch.nn's layers for rnnfast's in a model, and back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from . import modules
from .modules.options import Options

Model = TypeVar("Model", bound=nn.Module)

FAST: dict[type[nn.Module], type[nn.Module]] = {
    getattr(nn, name): getattr(modules, name) for name in modules.__all__
}
PLAIN = {fast: plain for plain, fast in FAST.items()}


def convert(model: Model, *, report: Callable[[str], Any] | None = print) -> Model:
    """Turns every RNN, LSTM and GRU of :mod:`torch.nn` and every cell of them in `model` into rnnfast's, in place.

    The modules stay the objects they are and change their class, so parameters, hooks, train/eval mode,
    optimizers made before and modules used in several places all carry on. Only exact types are
    turned: a subclass may rely on torch's ``forward`` and is left, as are modules compiled by TorchScript.

    Args:
        model: any module; also a wrapped one (DistributedDataParallel, ``torch.compile``).
        report: called with one line for each recurrent module, saying what became of it and why; None is silent.

    Returns:
        `model` itself.

    Example:
        >>> model = rnnfast.convert(nn.Sequential(nn.RNN(8, 16)))
        0: torch.nn.RNN -> rnnfast.RNN
    """
    return _swap(model, FAST, report)


def revert(model: Model, *, report: Callable[[str], Any] | None = print) -> Model:
    """Undoes :func:`convert`: every rnnfast layer in `model` becomes torch's again, in place.

    Raises:
        ValueError: for a layer with an option that torch's layer does not have and without which results differ;
            nothing is changed then.
    """
    return _swap(model, PLAIN, report)


def _swap(
    model: Model, swaps: dict[type[nn.Module], type[nn.Module]], report: Callable[[str], Any] | None
) -> Model:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, expected a torch.nn.Module")
    say = report or (lambda line: None)
    for path, module in model.named_modules():
        if type(module) in swaps and isinstance(module, Options):
            module._like_torchs(f"{path or 'the model itself'}: {_called(swaps[type(module)])}")
    changed = False
    for path, module in model.named_modules():
        name = path or "(the model itself)"
        target = swaps.get(type(module))
        if target is not None:
            say(f"{name}: {_called(type(module))} -> {_called(target)}")
            module.__class__ = target
            changed = True
        elif isinstance(module, torch.jit.ScriptModule):
            if module.original_name in {source.__name__ for source in swaps}:
                say(f"{name}: left, {module.original_name} is compiled by TorchScript")
        elif isinstance(module, tuple(swaps)) and type(module) not in swaps.values():
            base = next(source for source in swaps if isinstance(module, source))
            say(f"{name}: left, {_called(type(module))} is a subclass of {_called(base)}, not that class itself")
    if changed:
        _forget_compiled_code()
    return model


def _called(cls: type) -> str:
    if cls in FAST:
        return f"torch.nn.{cls.__name__}"
    return f"rnnfast.{cls.__name__}" if cls in PLAIN else f"{cls.__module__}.{cls.__qualname__}"


def _forget_compiled_code() -> None:
    """Code that torch.compile made for the modules as they were must not run for what they are now."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


__all__ = ["convert", "revert"]
