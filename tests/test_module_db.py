"""torch's own samples and error samples of its layers and cells, with our classes in torch's place."""

import copy
import re

import pytest
import torch
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

import rnnfast

NAMES = ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"]
OURS = {getattr(torch.nn, name): getattr(rnnfast, name) for name in NAMES}
INFOS = [info for info in module_db if info.module_cls in OURS]
DTYPES = [torch.float32, torch.float64]
# torch's, of its own layer in float32
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def values(result):
    """The values of a result, packed or not."""
    if isinstance(result, torch.Tensor):
        return [result] if result.is_floating_point() else []
    return [t for part in result if part is not None for t in values(part)]


def in_dtype(value, dtype):
    """Tensors, pairs of them and packed sequences of floating point in `dtype`; anything else as it is."""
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return value.to(dtype)
    if isinstance(value, tuple):
        return tuple(in_dtype(part, dtype) for part in value)
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.detach().to(dtype).requires_grad_(value.requires_grad)
    return value


def run(cls, constructor, forward, training, dtype, state=None):
    module = cls(*constructor.args, **constructor.kwargs).to(dtype).train(training)
    if state is not None:
        module.load_state_dict(state)
    args = [in_dtype(a, dtype) for a in copy.deepcopy(forward.args)]
    torch.manual_seed(0)  # dropout
    result = values(module(*args, **forward.kwargs))
    loss = sum(t.double().sin().sum() for t in result)
    loss.backward()
    return module, result, [p.grad for p in module.parameters()]


def samples_of(info, training, dtype=torch.float64):
    return info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training)


def error_samples_of(info):
    return info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float64, requires_grad=False, training=True
    )


def test_the_samples_are_there():
    assert len(INFOS) == 6
    counts = [
        [len(samples_of(info, True)) for info in INFOS],
        [len(samples_of(info, False)) for info in INFOS],
        [len(error_samples_of(info)) for info in INFOS],
    ]
    assert all(min(each) > 0 for each in counts)
    errors = 22 if torch.__version__ < (2, 11) else 58
    assert [sum(each) for each in counts] == [87, 87, errors]


# The samples saturate tanh, where 1 - h^2 keeps few digits in float32 and gradients far below 1 fewer still: over
# 60 seeds torch's own GRU is up to 3.6e-5 from float64.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4}


def relative_error(actual, exact):
    """The largest difference, relative to the largest value or to 1, the size of the loss's own derivative."""
    return float((actual.detach().double() - exact.detach()).abs().max() / exact.detach().abs().max().clamp_min(1))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_samples(info, dtype, training):
    for sample in samples_of(info, training, dtype):
        args = (sample.constructor_input, sample.forward_input, training, dtype)
        theirs, expected, expected_grads = run(info.module_cls, *args)
        ours, actual, grads = run(OURS[info.module_cls], *args, state=theirs.state_dict())
        assert repr(ours) == repr(theirs)
        exact, exact_grads = run(info.module_cls, *args[:3], torch.float64, state=theirs.state_dict())[1:]
        for mine, its in zip([*actual, *grads], [*exact, *exact_grads], strict=True):
            assert relative_error(mine, its) <= TOLERANCE[dtype]
        for mine, its in zip([*actual, *grads], [*expected, *expected_grads], strict=True):
            assert relative_error(mine, its.double()) <= TOLERANCE[dtype]


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_error_samples(info):
    for sample in error_samples_of(info):
        constructor, forward = (
            sample.module_error_input.constructor_input,
            sample.module_error_input.forward_input,
        )
        messages = []
        for cls in (info.module_cls, OURS[info.module_cls]):
            if sample.error_on == ModuleErrorEnum.FORWARD_ERROR:
                module = cls(*constructor.args, **constructor.kwargs)
                with pytest.raises(sample.error_type) as raised:
                    module(*forward.args, **forward.kwargs)
            else:
                with pytest.raises(sample.error_type) as raised:
                    cls(*constructor.args, **constructor.kwargs)
            assert re.search(sample.error_regex, str(raised.value))
            messages.append(str(raised.value))
        assert messages[0] == messages[1]
