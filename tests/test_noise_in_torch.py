"""Noise and layer normalisation within what torch has for modules: transforms, compilers, copies, checkpoints; and
what is refused.
"""

import copy
import io
import pickle

import pytest
import torch
from kinds import in_plain_torch, states
from torch import nn

import rnnfast
from rnnfast.modules import normalised

LAYERS = {
    "normalised": ("LSTM", dict(layer_norm=True, num_layers=2, bidirectional=True)),
    "normalised, with noise": ("LSTM", dict(layer_norm=True, recurrent_dropout=0.3, zoneout=(0.2, 0.4))),
    "LSTM with noise": ("LSTM", dict(proj_size=2, recurrent_dropout=0.3, zoneout=(0.2, 0.4))),
    "GRU with noise": ("GRU", dict(num_layers=2, bidirectional=True, recurrent_dropout=0.3, zoneout=0.2)),
    "RNN with noise": ("RNN", dict(recurrent_dropout=0.3, zoneout=0.2)),
}
RANDOM = [name for name in LAYERS if "noise" in name]


@pytest.fixture(autouse=True)
def _one_thread():
    """All that is run is small."""
    torch.set_num_threads(1)


def make(name, units=4, **others):
    kind, options = LAYERS[name]
    layer = getattr(rnnfast, kind)(3, units, **{"dtype": torch.float64, **options, **others})
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.4 / units**0.5 * torch.randn_like(p))
    return layer


def some_input(*lead):
    return torch.randn(*lead, 5, 2, 3, dtype=torch.float64)


def results(layer, x, seed=0):
    torch.manual_seed(seed)
    output, last = layer(x)
    return [output, *states(last)]


def loss_of(layer, seed=0):
    return lambda x: sum((1 + i) * r.sin().sum() for i, r in enumerate(results(layer, x, seed)))


@pytest.fixture(params=LAYERS)
def name(request):
    return request.param


def test_transforms(name):
    """grad, jvp and per-sample gradients are those of autograd, for the same noise."""
    layer, x, v = make(name), some_input().requires_grad_(), some_input()
    loss = loss_of(layer)
    (expected,) = torch.autograd.grad(loss(x), x)
    torch.testing.assert_close(torch.func.grad(loss)(x.detach()), expected)
    _, tangent = torch.func.jvp(loss, (x.detach(),), (v,))
    torch.testing.assert_close(tangent.detach(), (expected * v).sum())
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.detach(), v)
        tangent = torch.autograd.forward_ad.unpack_dual(loss(dual)).tangent
    torch.testing.assert_close(tangent.detach(), (expected * v).sum())


def test_samples(name):
    """All alike, or each with noise of its own."""
    layer, xs = make(name).requires_grad_(False), some_input(3)
    torch.manual_seed(0)
    same = torch.func.vmap(lambda x: layer(x)[0], randomness="same")(xs)
    expected = [results(layer, x)[0] for x in xs]
    torch.testing.assert_close(same, torch.stack(expected))
    alike = xs[:1].expand(3, -1, -1, -1)
    different = torch.func.vmap(lambda x: layer(x)[0], randomness="different")(alike)
    assert torch.equal(different[0], different[1]) == (name not in RANDOM)
    parameters = {n: p.detach() for n, p in layer.named_parameters()}

    def loss(parameters, x):
        return torch.func.functional_call(layer, parameters, (x,))[0].sin().sum()

    torch.manual_seed(0)
    found = torch.func.vmap(torch.func.grad(loss), (None, 0), randomness="same")(parameters, xs)
    layer.requires_grad_()
    for i, x in enumerate(xs):
        gradients = torch.autograd.grad(results(layer, x)[0].sin().sum(), list(layer.parameters()))
        torch.testing.assert_close([g[i] for g in found.values()], list(gradients))


def test_samples_are_refused_without_a_word_on_randomness():
    """As torch refuses its own dropout."""
    with pytest.raises(RuntimeError, match="called random operation while in randomness error mode"):
        torch.func.vmap(lambda x: make("GRU with noise")(x)[0])(some_input(3))


@pytest.mark.parametrize("trains", [True, False])
def test_whole_graphs(name, trains):
    torch._dynamo.reset()
    layer = make(name).train(trains)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = some_input().requires_grad_()
    found, expected = [
        [loss_of(m)(x), *torch.autograd.grad(loss_of(m)(x), [x, *layer.parameters()])] for m in (compiled, layer)
    ]
    torch.testing.assert_close(found, expected)
    assert torch.equal(compiled(x)[0], compiled(x)[0]) == (not trains or name not in RANDOM)


@pytest.mark.slow
def test_noise_in_inductor(name):
    """Its random numbers are others than torch's: gradients are those of what it drew."""
    torch._dynamo.reset()
    layer = make(name).train()
    compiled = torch.compile(layer, fullgraph=True)
    x, v = some_input().requires_grad_(), 1e-6 * some_input()
    loss = loss_of(compiled)
    (gradient,) = torch.autograd.grad(loss(x), x)
    difference = (loss(x + v) - loss(x - v)) / 2
    torch.testing.assert_close(difference, (gradient * v).sum(), rtol=1e-4, atol=1e-12)
    assert torch.equal(compiled(x)[0], compiled(x)[0]) == (name not in RANDOM)


@pytest.mark.parametrize(("trains", "decomposed"), [(True, True), (True, False), (False, False)])
def test_exported_programs(name, trains, decomposed):
    """In training they draw anew at each run, as they do for torch's dropout."""
    layer, x = make(name).train(trains), some_input()
    program = torch.export.export(layer, (x,))
    if decomposed:
        program = program.run_decompositions(rnnfast.export.decompositions())
        assert "rnnfast" not in program.graph_module.code
    else:
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        program = torch.export.load(file)
    module = program.module()
    torch.testing.assert_close(results(module, x), results(layer, x))
    assert torch.equal(module(x)[0], module(x)[0]) == (not trains or name not in RANDOM)


MANY = 48  # with 16 bits: what is normalised of a few units may be what rounding left of them


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(name, dtype):
    layer, x = make(name, MANY).float(), some_input().float().requires_grad_()

    def with_gradients():
        found = results(layer, x)
        return [*found, *torch.autograd.grad(sum(r.float().sum() for r in found), [x, *layer.parameters()])]

    with torch.autocast("cpu", dtype):
        found = with_gradients()
        with in_plain_torch():
            plain = with_gradients()
    assert all(r.dtype == dtype for r in found[:2])
    # What is normalised may make of a rounding error a large one, whoever computes it.
    for a, b, exact in zip(found, plain, with_gradients(), strict=True):
        tolerance = max(0.15 * exact.norm(), 2 * (b.float() - exact).norm())
        assert (a.float() - exact).norm() <= tolerance + 0.05


def test_autocast_that_normalises_in_float32(monkeypatch):
    """As on CUDA."""
    normalise = normalised.F.layer_norm
    monkeypatch.setattr(normalised.F, "layer_norm", lambda *args: normalise(*args).float())
    layer = make("normalised").float()
    with torch.autocast("cpu"):
        assert {r.dtype for r in results(layer, some_input().float())} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_dtype(name, dtype):
    layer, x = make(name, MANY), some_input()
    expected = results(layer, x)
    found = results(layer.to(dtype), x.to(dtype))
    with in_plain_torch():
        plain = results(layer, x.to(dtype))
    error = 1e-5 if dtype == torch.float32 else 0.05
    for a, b, exact in zip(found, plain, expected, strict=True):
        assert a.dtype == b.dtype == dtype
        assert (a.double() - exact).norm() <= error * exact.norm()
        assert (b.double() - exact).norm() <= error * exact.norm()


def through_a_file(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def loaded(layer):
    other = make(next(n for n in LAYERS if repr(make(n)) == repr(layer)))
    other.load_state_dict(layer.state_dict())
    return other


COPIES = [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), through_a_file, loaded]


@pytest.mark.parametrize("copied", COPIES, ids=["copy", "deepcopy", "pickle", "save", "state_dict"])
def test_copies(name, copied):
    layer, x = make(name), some_input()
    other = copied(layer)
    assert repr(other) == repr(layer)
    torch.testing.assert_close(results(other, x), results(layer, x))
    torch.testing.assert_close(results(other.eval(), x), results(layer.eval(), x))


def test_from_the_meta_device(name):
    layer = make(name, device="meta")
    x = some_input().to("meta").requires_grad_()
    output, last = layer(x)
    assert [t.shape for t in (output, *states(last))] == [t.shape for t in results(make(name), some_input())]
    output.sum().backward()
    assert all(p.grad.shape == p.shape for p in layer.parameters())
    layer.to_empty(device="cpu").reset_parameters()
    torch.manual_seed(3)
    layer.reset_parameters()
    torch.manual_seed(3)
    kind, options = LAYERS[name]
    own = getattr(rnnfast, kind)(3, 4, dtype=torch.float64, **options)
    torch.testing.assert_close(layer.state_dict(), own.state_dict())
    gains = [p for n, p in layer.named_parameters() if n.startswith("norm")]
    assert bool(gains) == ("normalised" in name)
    assert all(p.unique().numel() == 1 for p in gains)


@pytest.mark.parametrize("bias", [True, False])
def test_weights_of_layers_without_normalisation(bias):
    """Are those of one with it, once that is said to be meant; its gains stay."""
    plain, layer = nn.LSTM(3, 4, bias=bias), rnnfast.LSTM(3, 4, bias=bias, layer_norm=True)
    norms = ["norm_ih_l0", "norm_hh_l0", "norm_c_l0", *(["norm_c_bias_l0"] if bias else [])]
    with pytest.raises(RuntimeError, match=r'Missing key.*"norm_ih_l0", "norm_hh_l0", "norm_c_l0"'):
        layer.load_state_dict(plain.state_dict())
    missing, unexpected = layer.load_state_dict(plain.state_dict(), strict=False)
    assert (missing, unexpected) == (norms, [])
    assert torch.equal(layer.weight_hh_l0, plain.weight_hh_l0)
    assert (layer.norm_c_l0 == 1).all()
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"norm_ih_l0"'):
        plain.load_state_dict(layer.state_dict())


def test_optimizers_and_hooks_see_gains(name):
    layer = make(name)
    gradients = torch.autograd.grad(loss_of(layer)(some_input()), list(layer.parameters()))
    assert all(g.any() for g in gradients)
    if "normalised" in name:
        nn.utils.parametrizations.weight_norm(layer, "norm_ih_l0", dim=0)
        x = some_input()
        torch.testing.assert_close(results(layer, x), results(copy.deepcopy(layer), x))


def test_a_converted_layer_may_be_given_noise():
    layer = rnnfast.convert(nn.LSTM(3, 4), report=None)
    expected = layer(torch.ones(5, 2, 3))[0]
    layer.zoneout, layer.recurrent_dropout = (0.2, 0.9), 0.5
    assert repr(layer) == "LSTM(3, 4, recurrent_dropout=0.5, zoneout=(0.2, 0.9))"
    assert not torch.equal(layer(torch.ones(5, 2, 3))[0], layer(torch.ones(5, 2, 3))[0])
    layer.zoneout = layer.recurrent_dropout = 0
    assert torch.equal(layer(torch.ones(5, 2, 3))[0], expected)
    assert type(rnnfast.revert(layer, report=None)) is nn.LSTM


def test_revert_changes_nothing_where_it_refuses(name):
    model = nn.Sequential(rnnfast.GRU(3, 3), make(name))
    with pytest.raises(
        ValueError, match=r"(recurrent_dropout|layer_norm): got .*, which 1: torch.nn.\w+ does not"
    ):
        rnnfast.revert(model, report=None)
    assert type(model[0]) is rnnfast.GRU


@pytest.mark.parametrize(
    "option", [dict(recurrent_dropout=0.5), dict(zoneout=0.1), dict(layer_norm=True)], ids=str
)
def test_what_has_no_noise_and_no_normalisation_refuses(option):
    (name,) = option
    layer = rnnfast.LSTM(3, 4, **option)
    with pytest.raises(ValueError, match=f"^{name}: got .*, which TorchScript does not have$"):
        torch.jit.script(layer)
    with pytest.raises(ValueError, match=f"^{name}: got .*, which a layer with weights of 8 bits does not have$"):
        rnnfast.quantize_weights(nn.Sequential(layer))


@pytest.mark.parametrize(
    ("option", "trains", "message"),
    [
        (
            dict(recurrent_dropout=0.5),
            True,
            "noise: got recurrent dropout or zoneout, which ONNX's layers do not have",
        ),
        (dict(zoneout=0.1), False, "noise: got recurrent dropout or zoneout, which ONNX's layers do not have"),
        (dict(layer_norm=True), False, "layer_norm: got a layer-normalised LSTM, which ONNX's LSTM is not"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_onnx_refuses(option, trains, message):
    pytest.importorskip("onnxscript")
    layer = rnnfast.LSTM(3, 4, **option).train(trains)
    table = rnnfast.onnx.translation_table()
    with pytest.raises(torch.onnx.errors.OnnxExporterError) as error:
        torch.onnx.export(
            layer, (torch.randn(5, 2, 3),), dynamo=True, verbose=False, custom_translation_table=table
        )
    causes = [error.value]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    assert message in [str(cause) for cause in causes]


A_RATE = "expected a number of at least 0 and below 1"
WRONG = [
    *(("GRU", dict(recurrent_dropout=p), f"recurrent_dropout: got {p!r}, {A_RATE}") for p in (1, -0.1, "x", True)),
    ("RNN", dict(recurrent_dropout=float("nan")), f"recurrent_dropout: got nan, {A_RATE}"),
    ("LSTM", dict(recurrent_dropout=None), f"recurrent_dropout: got None, {A_RATE}"),
    ("GRU", dict(zoneout=(0.1, 0.2)), r"zoneout: got \(0.1, 0.2\), expected a number from 0 to 1"),
    ("RNN", dict(zoneout=1.5), "zoneout: got 1.5, expected a number from 0 to 1"),
    (
        "LSTM",
        dict(zoneout=(0.1,)),
        r"zoneout: got \(0.1,\), expected a number from 0 to 1, or a pair of them for h",
    ),
    ("LSTM", dict(zoneout=(0.1, "x")), r"zoneout: got \(0.1, 'x'\), expected a number"),
    ("LSTM", dict(layer_norm=True, proj_size=2), "layer_norm: got True with proj_size=2, expected proj_size=0"),
    ("GRU", dict(layer_norm=True), "layer_norm: got True for an RNN or GRU, expected an LSTM"),
    ("RNN", dict(layer_norm=True), "layer_norm: got True for an RNN or GRU, expected an LSTM"),
    *(
        ("GRU", dict(bptt_clip=v), f"bptt_clip: got {v!r}, expected a positive number or None")
        for v in ("x", 0, -1)
    ),
]


@pytest.mark.parametrize(("kind", "options", "message"), WRONG, ids=str)
def test_wrong_options_get_one_clear_line(kind, options, message):
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        getattr(rnnfast, kind)(3, 4, **options)
    (option,) = list(options)[-1:]
    if option in ("recurrent_dropout", "zoneout"):
        layer = getattr(rnnfast, kind)(3, 4, zoneout=0.5)
        with pytest.raises(ValueError, match=message):
            setattr(layer, option, options[option])
        assert layer.zoneout == 0.5
