"""lengths, reset, reset_state and all_states, against torch.nn run over each stretch of each row by itself."""

import itertools
import warnings

import pytest
import torch
from kinds import KINDS, in_plain_torch, make, random_hx, state_sizes, states
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import rnnfast
from rnnfast import ops, sequences
from rnnfast.lab import record_gradients
from rnnfast.modules import base, ragged

T, B = 7, 5


def join(layer, hx):
    return tuple(hx) if layer.mode == "LSTM" else hx[0]


def drawn(kind, options, with_hx, with_lengths, with_reset, with_state):
    """Both layers with the same weights, and arguments with gradients."""
    ours = make(kind, 3, 4, dtype=torch.float64, **options)
    theirs = make(kind, 3, 4, package=nn, dtype=torch.float64, **{**options, "batch_first": False})
    theirs.load_state_dict(ours.state_dict())
    lead = ours.num_layers * (2 if ours.bidirectional else 1)
    lengths = torch.tensor([4, 0, T, 1, 5])[torch.randperm(B)] if with_lengths else torch.full((B,), T)
    reset = torch.rand(T, B) < 0.3 if with_reset else torch.zeros(T, B, dtype=torch.bool)
    x = torch.randn(T, B, 3, dtype=torch.float64)
    hx = [s.requires_grad_() for s in states(random_hx(ours, lead, B))] if with_hx else None
    rows = 1 if with_state == "shared" else B
    state = [s.requires_grad_() for s in states(random_hx(ours, lead, rows))] if with_state else None
    return ours, theirs, x.requires_grad_(), hx, lengths, reset, state


def by_stretches(layer, x, hx, lengths, reset, reset_state):
    """Output, last states and every state of the last layer, by torch.nn."""
    directions = 2 if layer.bidirectional else 1
    lead = layer.num_layers * directions
    zeros = [x.new_zeros(lead, B, size) for size in state_sizes(layer)]
    hx = zeros if hx is None else hx
    others = zeros if reset_state is None else [s.expand(-1, B, -1) for s in reset_state]
    outputs, lasts = [], []
    for b in range(B):
        n = int(lengths[b])
        cuts = [0, *(t for t in range(1, n) if reset[t, b]), n] if n else [0]
        begins = [
            o[:, b].clone() if n and reset[0, b] else s[:, b].clone() for s, o in zip(hx, others, strict=True)
        ]
        last = [s[:, b].clone() for s in hx]
        rows = []
        for i, (begin, end) in enumerate(itertools.pairwise(cuts)):
            given = []
            for s, o, opening in zip(hx, others, begins, strict=True):
                each = o[:, b].clone()
                for d in range(directions):
                    own = slice(d, None, directions)
                    if d == 0 and i == 0:
                        each[own] = opening[own]
                    if d == 1 and end == n:
                        each[own] = s[own, b]
                given.append(each.unsqueeze(1))
            y, h = layer(x[begin:end, b : b + 1], join(layer, given))
            rows.append(y[:, 0])
            for kept, s in zip(last, states(h), strict=True):
                if end == n:
                    kept[0::directions] = s[0::directions, 0]
                if i == 0 and directions == 2:
                    kept[1::2] = s[1::2, 0]
        width = directions * (layer.proj_size or layer.hidden_size)
        outputs.append(torch.cat([*rows, x.new_zeros(T - n, width)]))
        lasts.append(last)
    return torch.stack(outputs, 1), [torch.stack(s, 1) for s in zip(*lasts, strict=True)]


OPTIONS = [
    {},
    dict(bidirectional=True),
    dict(num_layers=2, bidirectional=True, batch_first=True),
    dict(bias=False),
]
GIVEN = [
    given  # hx, lengths, reset, reset_state
    for given in itertools.product([True, False], [True, False], [True, False], [False, "rows", "shared"])
    if (given[1] or given[2]) and (given[2] or not given[3])
]


@pytest.mark.parametrize("given", GIVEN, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_each_stretch_by_itself(kind, options, given):
    ours, theirs, x, hx, lengths, reset, state = drawn(kind, options, *given)
    _, with_lengths, with_reset, _ = given

    def turned(t):
        return t.transpose(0, 1) if ours.batch_first else t

    poisoned = x.masked_fill((torch.arange(T).unsqueeze(1) >= lengths).unsqueeze(2), torch.nan)
    output, last, all_states = ours(
        turned(poisoned),
        None if hx is None else join(ours, hx),
        lengths=lengths if with_lengths else None,
        reset=turned(reset) if with_reset else None,
        reset_state=None if state is None else join(ours, state),
        all_states=True,
    )
    expected, expected_last = by_stretches(theirs, x, hx, lengths, reset, state)
    torch.testing.assert_close(turned(output), expected)
    torch.testing.assert_close(states(last), expected_last)
    torch.testing.assert_close(states(all_states)[0][-1], output)
    leaves = [x, *(hx or []), *(state or [])]
    found = torch.autograd.grad(
        sum(t.sin().sum() for t in (output, *states(last))), [*leaves, *ours.parameters()], allow_unused=True
    )
    wanted = torch.autograd.grad(
        sum(t.sin().sum() for t in (expected, *expected_last)), [*leaves, *theirs.parameters()], allow_unused=True
    )
    for a, b in zip(found, wanted, strict=True):
        zero = torch.zeros(())
        torch.testing.assert_close(
            zero if a is None else a,
            torch.zeros_like(a) if b is None and a is not None else zero if b is None else b,
        )


def test_all_states_are_those_of_cells():
    """Of every layer, an LSTM's c too, with gradients."""
    layer = rnnfast.LSTM(3, 4, num_layers=2, dtype=torch.float64)
    x = torch.randn(T, B, 3, dtype=torch.float64)
    output, (h_n, c_n), (h, c) = layer(x, all_states=True)
    assert h.shape == c.shape == (2, T, B, 4)
    torch.testing.assert_close(h[:, -1], h_n)
    torch.testing.assert_close(c[:, -1], c_n)
    cells = [nn.LSTMCell(3, 4, dtype=torch.float64), nn.LSTMCell(4, 4, dtype=torch.float64)]
    for k, cell in enumerate(cells):
        cell.load_state_dict(
            {n: getattr(layer, f"{n}_l{k}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        )
    inputs = x
    for k, cell in enumerate(cells):
        state, hs = None, []
        for t in range(T):
            state = cell(inputs[t], state)
            hs.append(state)
        torch.testing.assert_close(h[k], torch.stack([s[0] for s in hs]))
        torch.testing.assert_close(c[k], torch.stack([s[1] for s in hs]))
        inputs = torch.stack([s[0] for s in hs])
    (gradient,) = torch.autograd.grad(c[0].sin().sum(), layer.weight_hh_l0, retain_graph=True)
    assert gradient.count_nonzero() > 0
    torch.testing.assert_close(output, h[-1])


@pytest.mark.parametrize("form", ["unbatched", "packed", "batch_first with dropout"])
def test_all_states_of_other_forms(kind, form):
    layer = make(kind, 3, 4, num_layers=2, batch_first=True, dropout=0.5 if "dropout" in form else 0.0)
    if form == "packed":
        packed = nn.utils.rnn.pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])
        output, _, found = layer(packed, all_states=True)
        output = output.data
    else:
        output, _, found = layer(
            torch.randn(T, 3) if form == "unbatched" else torch.randn(B, T, 3), all_states=True
        )
    for s, size in zip(states(found), state_sizes(layer), strict=True):
        assert s.shape == (2, *output.shape[:-1], size)
    torch.testing.assert_close(states(found)[0][-1], output)


@pytest.mark.parametrize("way", [{}, dict(recompute=True), dict(checkpoint_every=2)], ids=str)
def test_no_steps_at_all(kind, way):
    layer = make(kind, 3, 4, bidirectional=True, **way)
    hx = random_hx(layer, 2, 3)
    for s in states(hx):
        s.requires_grad_()
    output, last = layer(torch.randn(5, 3, 3), hx, lengths=torch.zeros(3, dtype=torch.int64))
    loss = output.sum() + sum(s.sum() for s in states(last))
    *of_states, of_weights = torch.autograd.grad(loss, [*states(hx), layer.weight_hh_l0])
    assert all(torch.equal(g, torch.ones_like(g)) for g in of_states)
    assert not of_weights.any()
    empty = torch.nested.nested_tensor([torch.randn(0, 3)] * 2, layout=torch.jagged)
    layer(empty)[0].values().sum().backward()
    for none in (dict(lengths=torch.zeros(0, dtype=torch.int64)), dict(reset=torch.zeros(5, 0) > 0)):
        layer(torch.randn(5, 0, 3), **none)[0].sum().backward()
    assert not any(p.grad.any() for p in layer.parameters())
    output, last = layer(torch.randn(5, 3, 3), hx, lengths=torch.zeros(3, dtype=torch.int64))
    assert not output.any()
    torch.testing.assert_close(states(last), states(hx))
    output, last = layer(torch.randn(5, 3, 3), lengths=torch.zeros(3, dtype=torch.int64))
    assert not any(s.any() for s in states(last))
    assert output.shape[:2] == (5, 3)


def test_no_gradient_flows_across_a_reset(kind):
    layer, x = make(kind, 3, 4), torch.randn(T, B, 3, requires_grad=True)
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[4] = True
    output, _ = layer(x, reset=reset)
    (gradient,) = torch.autograd.grad(output[-1].sum(), x)
    assert not gradient[:4].any()
    assert gradient[4:].abs().sum(2).all()


LONG = dict(dtype=torch.int64)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(lengths=[1, 2, 3]), TypeError, "lengths: got list, expected a tensor"),
        (dict(lengths=torch.tensor([1, 2, 8])), ValueError, "lengths: got 8 in row 2, expected 0 to 7"),
        (dict(lengths=torch.tensor([1, -2, 3])), ValueError, "lengths: got -2 in row 1, expected 0 to 7"),
        (
            dict(lengths=torch.tensor([1.0, 2, 3])),
            ValueError,
            r"lengths: got torch.float32 of shape \(3,\), expected",
        ),
        (dict(lengths=torch.tensor([1, 2])), ValueError, r"lengths: got torch.int64 of shape \(2,\), expected"),
        (dict(reset=torch.zeros(7, 3)), ValueError, "reset: got torch.float32 of shape"),
        (
            dict(reset=torch.zeros(3, 7) > 0),
            ValueError,
            r"reset: got torch.bool of shape \(3, 7\), expected .* \(7, 3\)",
        ),
        (dict(reset_state=torch.zeros(1, 3, 4)), ValueError, "reset_state: got one without reset"),
        (
            dict(reset=torch.zeros(7, 3) > 0, reset_state=torch.zeros(1, 2, 4)),
            ValueError,
            r"reset_state: got shape \(1, 2, 4\), expected \(1, 3 or 1, 4\)",
        ),
    ],
)
def test_wrong_arguments_get_one_clear_line(options, error, message):
    with pytest.raises(error, match=message):
        rnnfast.GRU(3, 4)(torch.zeros(7, 3, 3), **options)


@pytest.mark.parametrize(
    ("name", "state", "error", "message"),
    [
        ("LSTM", torch.zeros(1, 2, 4), TypeError, "got Tensor, expected a pair of tensors"),
        ("LSTM", (torch.zeros(1, 3, 4),) * 3, TypeError, "got tuple of 3, expected a pair of tensors"),
        ("LSTM", (torch.zeros(1, 3, 4), None), TypeError, "got tuple of 2, expected a pair of tensors"),
        ("GRU", (torch.zeros(1, 3, 4),), TypeError, "got tuple of 1, expected a tensor"),
        ("GRU", 0, TypeError, "got int, expected a tensor"),
        (
            "GRU",
            torch.zeros(1, 3, 4).double(),
            ValueError,
            "got torch.float64, expected torch.float32",
        ),
    ],
)
def test_reset_states_that_do_not_fit(name, state, error, message):
    with pytest.raises(error, match=f"reset_state: {message}"):
        make(name, 3, 4)(torch.zeros(7, 3, 3), reset=torch.zeros(7, 3) > 0, reset_state=state)


def test_sequences_of_no_steps_are_refused():
    for options in (dict(lengths=torch.zeros(3, dtype=torch.int64)), dict(reset=torch.zeros(0, 3) > 0)):
        with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0 in RNN"):
            rnnfast.GRU(3, 4)(torch.zeros(0, 3, 3), **options)


@pytest.mark.parametrize("form", ["lengths", "nested", "reset", "reset, packed"])
def test_recorded_norms_are_those_of_rows_and_steps(kind, form):
    layer = make(kind, 3, 4, bidirectional=True, dtype=torch.float64)
    lengths, reset = torch.tensor([4, 0, T, 1, 5]), torch.rand(T, B) < 0.3
    x, dy = torch.randn(T, B, 3, dtype=torch.float64), torch.randn(T, B, 2 * state_sizes(layer)[0]).double()
    with record_gradients(layer) as recording:
        if form == "nested":
            rows = torch.nested.nested_tensor([x[:n, b] for b, n in enumerate(lengths)], layout=torch.jagged)
            dys = torch.cat([dy[:n, b] for b, n in enumerate(lengths)])
            layer(rows)[0].values().backward(dys)
        elif form == "lengths":
            layer(x, lengths=lengths)[0].backward(dy)
        else:
            layer.recompute = "packed" in form
            layer(x, reset=reset)[0].backward(dy)
    found = recording["l0"]
    assert found.shape == (T, B, 2)
    plain = make(kind, 3, 4, bidirectional=True, dtype=torch.float64)
    plain.load_state_dict(layer.state_dict())
    for b, n in enumerate(lengths if form in ("lengths", "nested") else [T] * B):
        cuts = [0, *(t for t in range(1, T) if reset[t, b]), T] if "reset" in form else [0, int(n)]
        for begin, end in itertools.pairwise(cuts):
            if begin == end:
                continue
            with record_gradients(plain) as expected:
                plain(x[begin:end, b : b + 1])[0].backward(dy[begin:end, b : b + 1])
            torch.testing.assert_close(found[begin:end, b], expected["l0"][:, 0])
        assert not found[int(n) :, b].any()


def test_many_gradients_at_once(kind):
    layer, x = make(kind, 3, 4, dtype=torch.float64), torch.randn(T, B, 3, dtype=torch.float64)

    def function(x):
        return layer(x, lengths=torch.tensor([4, 0, T, 1, 5]))[0].sum((0, 1))

    found, expected = [torch.autograd.functional.jacobian(function, x, vectorize=v) for v in (True, False)]
    torch.testing.assert_close(found, expected)


def test_only_padded_batches_have_lengths():
    packed = nn.utils.rnn.pack_sequence([torch.randn(4, 3)])
    for input, got in ((packed, "a PackedSequence"), (torch.randn(4, 3), "2 dimensions")):
        with pytest.raises(ValueError, match=f"input: got {got}, expected a padded batch"):
            rnnfast.GRU(3, 4)(input, lengths=torch.tensor([4]))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("options", [{}, dict(num_layers=2, bidirectional=True)], ids=str)
def test_nested_tensors(kind, options, batch_first):
    """Nested in, nested out, the same as padded with lengths; gradients too."""
    layer = make(kind, 3, 4, batch_first=batch_first, dtype=torch.float64, **options)
    lengths = torch.tensor([4, 0, T, 1, 5])
    rows = [torch.randn(int(n), 3, dtype=torch.float64) for n in lengths]
    nested = torch.nested.nested_tensor(rows, layout=torch.jagged, requires_grad=True)
    hx = random_hx(layer, layer.num_layers * (2 if layer.bidirectional else 1), B)
    output, last = layer(nested, hx)
    assert output.is_nested
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=batch_first).requires_grad_()
    expected, expected_last = layer(padded, hx, lengths=lengths)
    by_rows = expected if batch_first else expected.transpose(0, 1)
    torch.testing.assert_close(output.values(), torch.cat([y[:n] for y, n in zip(by_rows, lengths, strict=True)]))
    torch.testing.assert_close(last, expected_last)
    torch.testing.assert_close((output + output).values(), 2 * output.values())  # it has the input's raggedness
    output.values().sin().sum().backward()
    expected.sin().sum().backward()
    of_padded = padded.grad if batch_first else padded.grad.transpose(0, 1)
    of_rows = torch.cat([g[:n] for g, n in zip(of_padded, lengths, strict=True)])
    torch.testing.assert_close(nested.grad.values(), of_rows)


def test_nested_tensors_that_do_not_fit():
    layer = rnnfast.GRU(3, 4)
    nested = torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(5, 3)], layout=torch.jagged)
    with pytest.raises(ValueError, match="lengths: got one with a nested input, whose rows have lengths already"):
        layer(nested, lengths=torch.tensor([2, 5]))
    with pytest.raises(ValueError, match="all_states: got True with a nested input"):
        layer(nested, all_states=True)
    with pytest.raises(RuntimeError, match=r"Expected hidden size \(1, 2, 4\), got \[1, 3, 4\]"):
        layer(nested, torch.zeros(1, 3, 4))
    holes = torch.nested.narrow(torch.randn(2, 5, 3), 1, torch.tensor([0, 1]), torch.tensor([2, 2]), torch.jagged)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The PyTorch API of nested tensors")  # of the strided ones
        strided = torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(5, 3)])
    others = {", with holes": holes, "of which 2 is ragged": nested.transpose(1, 2), "strided": strided}
    for got, other in others.items():
        with pytest.raises(ValueError, match=f"input: got a nested tensor of .*{got}.*; expected"):
            layer(other)


@pytest.mark.parametrize("given", ["lengths", "reset", "both"])
def test_the_operator_and_plain_torch_cut_alike(given):
    for _ in range(20):
        steps, rows = int(torch.randint(1, 9, ())), int(torch.randint(1, 6, ()))
        lengths = torch.randint(0, steps + 1, (rows,)) if given != "reset" else None
        reset = torch.rand(steps, rows) < 0.4 if given != "lengths" else None
        for batch_first in (True, False):
            found = ops.stretches(lengths, reset, steps, rows, batch_first, packs=True)
            expected = sequences.stretches(lengths, reset, steps, rows, batch_first)
            for name, a, b in zip(found._fields, found, expected, strict=True):
                if name != "ends":  # any for rows without steps
                    assert torch.equal(a, b), name
            for a, b in zip(found.ends, expected.ends, strict=True):
                assert torch.equal(a[~found.empty], b[~found.empty])


def arguments(layer):
    return dict(
        lengths=torch.tensor([4, 0, T, 1, 5]),
        reset=torch.rand(T, B) < 0.3,
        reset_state=random_hx(layer, layer.num_layers * (2 if layer.bidirectional else 1), 1),
    )


def test_under_transforms_and_compilers(kind):
    """Second derivatives, forward mode, samples, Dynamo, autocast: as for any layer."""
    layer = make(kind, 3, 4, num_layers=2, bidirectional=True, dtype=torch.float64).requires_grad_(False)
    options, x, v = arguments(layer), *torch.randn(2, T, B, 3, dtype=torch.float64)

    def loss(x):
        output, last = layer(x, **options)
        return output.sin().sum() + sum(s.cos().sum() for s in states(last))

    assert gradcheck(loss, x.clone().requires_grad_(), fast_mode=True)
    assert gradgradcheck(loss, x.clone().requires_grad_(), fast_mode=True)
    gradient = torch.func.grad(loss)(x)
    torch.testing.assert_close(torch.func.jvp(loss, (x,), (v,))[1], (gradient * v).sum())
    samples = torch.randn(3, T, B, 3, dtype=torch.float64)
    expected = torch.stack([torch.func.grad(loss)(s) for s in samples])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(samples), expected)
    torch.testing.assert_close(torch.compile(loss, backend="eager")(x), loss(x))
    with torch.autocast("cpu"):
        assert layer.float()(x.float(), **arguments(layer))[0].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_dtype(kind, dtype):
    layer = make(kind, 3, 4)
    x, lengths = torch.randn(T, B, 3), torch.tensor([4, 0, T, 1, 5])
    expected, _ = layer(x, lengths=lengths)
    found, _ = layer.to(dtype)(x.to(dtype), lengths=lengths)
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)


def test_without_compiled_kernels(kind):
    layer = make(kind, 3, 4, bidirectional=True)
    options, x = arguments(layer), torch.randn(T, B, 3)
    expected = layer(x, **options)
    with in_plain_torch():
        torch.testing.assert_close(layer(x, **options), expected)


def test_opcheck():
    lengths, reset = torch.tensor([2, 0, 4]), torch.rand(4, 3) < 0.4
    rows = torch.randn(4, 3, 5, requires_grad=True)
    found = torch.ops.rnnfast.stretches(lengths, reset, 4, 3, False, True)
    index, inverse = found[1:3]
    torch.library.opcheck(torch.ops.rnnfast.rows_at, (rows, index, inverse, [len(index)]))
    torch.library.opcheck(
        torch.ops.rnnfast.stretches.default,
        (lengths, reset, 4, 3, False, True),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("weights", ["packed", "in_place"])
@pytest.mark.parametrize("schedule", ["batch_split", "unit_split"])
def test_resets_in_every_schedule(kind, schedule, weights, dtype, monkeypatch):
    """Stretches where they lie, against the same ones packed: both directions, more stretches than rows."""
    layer = make(kind, 5, 19, num_layers=2, bidirectional=True, dtype=dtype)
    reset = torch.rand(23, 6) < 0.2
    x, hx = torch.randn(23, 6, 5, dtype=dtype, requires_grad=True), random_hx(layer, 4, 6)
    packed, found = [], []
    monkeypatch.setattr(ragged.ops, "rows_at", lambda *args, f=ops.rows_at: packed.append(1) or f(*args))
    for takes in (True, False):
        monkeypatch.setattr(base.RecurrentLayer, "_takes_stretches", takes)
        with rnnfast.forced_plan(schedule=schedule, weights=weights, workers=2):
            output, last = layer(x, hx, reset=reset)
            assert bool(packed) != takes
            loss = sum((1 + i) * t.float().sin().sum() for i, t in enumerate((output, *states(last))))
            found.append([output, *states(last), *torch.autograd.grad(loss, [x, *layer.parameters()])])
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.1}[dtype]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1, float(b.detach().abs().max())))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([[0, 1], [0, 0], [4, 5]], "got row 1, step 0, 5 steps, expected one of 2 rows"),
        ([[0, 2], [0, 0], [4, 4]], "got row 2, step 0, 4 steps"),
        ([[0, 1], [1, 0], [4, 4]], "got row 0, step 1, 4 steps"),
        ([[0, 0], [0, 0], [4, 4]], "got step 0 of row 0 twice"),
        ([[0, 1], [0, 0], [4, 3]], "got 7 steps, expected all 4 x 2"),
        ([[0, 1], [0, 0]], r"expected an int64 tensor \(3, S\) on the CPU"),
    ],
)
def test_stretches_that_do_not_fit(table, message):
    layer = rnnfast.GRU(3, 4)
    weights = (layer.weight_ih_l0, layer.weight_hh_l0, None, layer.bias_ih_l0, layer.bias_hh_l0, None, None)
    with pytest.raises(RuntimeError, match=f"stretches: {message}"):
        torch.ops.rnnfast.recurrence(
            torch.zeros(4, 2, 3), *weights, "gru", 0, False, None, False, torch.tensor(table)
        )
