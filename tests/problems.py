"""Random recurrences, and how closely results must agree."""

import itertools
import random
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from rnnfast import reference
from rnnfast._autograd import NORMS, TENSORS
from rnnfast._noise import Noise, Rates
from rnnfast.reference import GATES, HAVE_C
from rnnfast.sequences import Layout, is_reversed

CELLS = ["elman_tanh", "elman_relu", "lstm", "gru"]
# Cells, and how many units an LSTM's projection has for so many of its own.
# Cells with gates, whose gradients members of a crew may scatter.
SCATTERING = ("lstm", "gru")
KINDS = {**{cell: (cell, lambda H: 0) for cell in CELLS}, "lstm projected": ("lstm", lambda H: max(1, H // 2))}
KINDS["lstm projected wider"] = ("lstm", lambda H: H + 17)
KINDS["lstm normalised"] = ("layer_norm_lstm", lambda H: 0)
OPTIONAL = ("bias", "h0", "c0", "dy", "dh_n", "dc_n", "dc")  # c is an LSTM's
# Relative to the largest value; a 16-bit state is rounded once at each step.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}

op = torch.ops.rnnfast


def most_rows(H, crew, dtype):
    """That a grid's crew may own: members have a thread for each row of their units, which come in fours."""
    units = -(-H // crew // 4) * 4
    return min(256 // units, 4 if dtype == torch.float64 else 32)


@dataclass(frozen=True)
class Problem:
    """Arguments of the operators ``recurrence`` and ``recurrence_bptt``, over gates projected already."""

    gates: Tensor
    w_hh: Tensor
    w_hr: Tensor | None
    bias: Tensor | None
    h0: Tensor | None
    c0: Tensor | None
    options: tuple[Any, ...]  # cell, direction, batch_first, batch_sizes
    dy: Tensor | None = None
    dh_n: Tensor | None = None
    dc_n: Tensor | None = None
    dc: Tensor | None = None
    clip: float | None = None
    noise: Rates | None = None
    seed: Tensor | None = None

    @property
    def cell(self):
        return self.options[0]

    @property
    def is_stepwise(self):
        """Whether on a GPU a step at a time is all that there is."""
        return self.is_noisy or self.w_hr is not None or self.cell == "layer_norm_lstm"

    @property
    def is_noisy(self):
        """Whether states have noise; what is only dropped has none without a seed."""
        return self.noise is not None and any(self.noise[self.seed is None :])

    def to(self, where):
        """With tensors of another dtype or device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        kept = {"seed"} if isinstance(where, torch.dtype) else {}  # whole numbers
        moved = {n: t.to(where) for n, t in tensors.items() if isinstance(t, Tensor) and n not in kept}
        return replace(self, **moved)

    def inputs(self):
        """What may have a gradient, by the names of the operator's arguments."""
        named = dict(input=self.gates, w_hh=self.w_hh, w_hr=self.w_hr, b_hh=self.bias, h0=self.h0, c0=self.c0)
        return {name: t for name, t in named.items() if t is not None}

    def forward(self, saves=False):
        """Results and what BPTT needs, by the operator."""
        args = (self.gates, None, self.w_hh, self.w_hr, None, self.bias, self.h0, self.c0)
        return op.recurrence(*args, *self.options, saves, seed=self.seed, noise=self.noise)

    def reference(self, norms=None):
        args = (self.gates, self.w_hh, self.w_hr, self.bias, self.h0, self.c0)
        return reference.recurrence(*args, *self.options, self.clip, norms, noise=self.noise, seed=self.seed)

    def bptt(self, results, needs=1):
        """All gradients, by the operator, from what forward(True) returned."""
        count = 3 if self.cell in HAVE_C else 2
        y, saved = results[0], results[count:]
        gains = self.bias if self.cell == "layer_norm_lstm" else None
        args = (None, None, self.w_hh, self.w_hr, None, gains, self.h0, self.c0, y, saved)
        given = (self.dy, self.dh_n, self.dc_n, self.dc)
        options = dict(seed=self.seed, noise=self.noise, clip=self.clip)
        return op.recurrence_bptt(*given, *args, *self.options, needs, **options)

    def gradients(self, results):
        """Those of every input there is, by name, and the norms of dL/dh_t."""
        places = {name: (TENSORS.index(name), t.shape) for name, t in self.inputs().items()}
        places["norms"] = (NORMS, self.gates.shape[:-1])
        found = self.bptt(results, sum(1 << i for i, _ in places.values()))
        return {name: found[i].view(shape) for name, (i, shape) in places.items()}


def draw(
    T,
    B,
    H,
    G=1,
    dtype=torch.float64,
    *,
    cell="elman_tanh",
    P=0,
    direction=0,
    layout="time",
    given=OPTIONAL,
    noisy=False,
):
    """A random problem in layout "time", "batch" or "packed", with the optional arguments `given`.

    Values are drawn in `dtype`, so that its float64 copy is exact; weights do not expand, nor with what is kept
    of dropout multiplied up, so that values and rounding errors do not grow from step to step.

    Args: P: units of a projection, 0 for none.
    """
    batch_sizes = random_batch_sizes(T, B) if layout == "packed" else None
    lead = {"time": (T, B), "batch": (B, T)}.get(layout) or (int(batch_sizes.sum()),)
    K, state, lstm, norm = GATES[cell] * H, P or H, cell in HAVE_C, cell == "layer_norm_lstm"

    def some(name, *size):
        wanted = (name in given or (norm and name == "bias")) and (lstm or name not in ("c0", "dc_n", "dc"))
        return torch.randn(size, dtype=torch.float64).to(dtype) if wanted else None

    noise = tuple(random.choice([0.0, p, q]) for p, q in ((0.2, 0.5), (0.1, 0.6), (0.4, 1.0))) if noisy else None
    most = 1 - noise[0] if noise else 1

    def matrices(rows, columns):
        w = torch.randn(G, rows, columns, dtype=torch.float64) / columns**0.5
        return (w / (torch.linalg.matrix_norm(w, 2, keepdim=True) / most).clamp_min(1)).to(dtype)

    return Problem(
        gates=torch.randn(*lead, G, K, dtype=torch.float64).to(dtype),
        w_hh=matrices(K, state),
        w_hr=matrices(P, H) if P else None,
        bias=some("bias", G, K + 2 * H * norm),
        h0=some("h0", G, B, state),
        c0=some("c0", G, B, H),
        options=(cell, direction, layout == "batch", batch_sizes),
        dy=some("dy", *lead, G, state),
        dh_n=some("dh_n", G, B, state),
        dc_n=some("dc_n", G, B, H),
        dc=some("dc", *lead, G, H),
        clip=random.choice([None, 0.5]),
        noise=noise,
        seed=None if noise is None or random.random() < 0.3 else random_seed(),
    )


def random_seed():
    """A key, and the number of the first step."""
    return torch.tensor([random.randrange(-(1 << 63), 1 << 63), random.randrange(1 << 40)])


def draw_kind(kind, T, B, H, G=1, dtype=torch.float64, **options):
    """The same, for one of KINDS, now and then with noise."""
    cell, projection = KINDS[kind]
    if cell == "layer_norm_lstm" and dtype != torch.float64:
        # What is normalised of few units is what rounding left of them.
        H = max(H, 16 if dtype.itemsize == 2 else 4)
    return draw(T, B, H, G, dtype, cell=cell, P=projection(H), noisy=random.random() < 0.3, **options)


def small_problems(kind, dtype):
    """One of every layout and direction, around the sizes of the CUDA kernels' tiles."""
    for layout, direction in itertools.product(("time", "batch", "packed"), range(3)):
        T, B, G = random.randint(1, 5), random.randint(1, 20), random.randint(1, 3)
        given = [name for name in OPTIONAL if random.random() < 0.7]
        H = random.choice([1, 3, 8, 15, 16, 17, 33, 40])
        yield draw_kind(kind, T, B, H, G, dtype, direction=direction, layout=layout, given=given)


def random_batch_sizes(T, B):
    """Active rows of each step of B sequences, the longest of T steps."""
    lengths = torch.cat([torch.tensor([T]), torch.randint(1, T + 1, (B - 1,))])
    return (lengths.unsqueeze(0) > torch.arange(T).unsqueeze(1)).sum(1)


def assert_close(actual, expected, tolerance=None, what="result", scale_of=None):
    """Compares with float64 values, relative to the largest of them or of `scale_of`.

    NaN and Inf must stand in the same places.
    """
    tolerance = tolerance or TOLERANCE[actual.dtype]
    actual, expected = actual.detach().double(), expected.detach().double()
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    if actual.numel() == 0:
        return
    scale_of = expected if scale_of is None else scale_of.detach()
    finite = torch.isfinite(scale_of)
    scale = scale_of[finite].abs().max().clamp_min(1e-3) if finite.any() else torch.ones(())
    torch.testing.assert_close(
        actual, expected, rtol=0, atol=tolerance * float(scale), equal_nan=True, msg=lambda m: f"{what}: {m}"
    )


def elman_bptt(p, y, before_noise=None):
    """dgates_t = f'(h_t) * dh_t, dh_t = dy_t + W_hh^T dgates_{t+1}, with dh_n entering at each row's last step,
    clipped; and the norms of dh_t before it is.

    From the states y that a kernel found, or what they were before noise, so that a relu at its kink cannot
    differ.
    """
    cell, direction, *layout = p.options
    layout = Layout(*layout)
    ys = layout.steps(y)
    fs = ys if before_noise is None else layout.steps(before_noise)
    dys = layout.steps(torch.zeros_like(y) if p.dy is None else p.dy)
    dgates, norms = [[] for _ in ys], [[] for _ in ys]
    for g in range(p.w_hh.size(0)):
        dh = p.w_hh.new_zeros(ys[0].size(0), p.w_hh.size(-1)) if p.dh_n is None else p.dh_n[g]
        noise = None if p.noise is None else Noise(p.noise, p.seed, g)
        factor = None if noise is None else noise.factor(*dh.shape, dh)
        order = range(len(ys))
        for t in order if is_reversed(g, direction) else reversed(order):
            n, f, kept = ys[t].size(0), fs[t][:, g], 0.0
            dgate = dh[:n] + dys[t][:, g]
            norms[t].append(dgate.norm(dim=-1))
            if p.clip is not None:
                dgate = dgate.clamp(-p.clip, p.clip)
            if noise is not None:
                kept = noise.zoned(0, torch.zeros_like(f), torch.ones_like(f), t) * dgate
                dgate = (dgate - kept) * (1 if factor is None else factor[:n])
            dgate = dgate * (1 - f * f) if cell == "elman_tanh" else torch.where(f <= 0, 0, dgate)
            dgates[t].append(dgate)
            dh = torch.cat([dgate @ p.w_hh[g] + kept, dh[n:]])
    return [layout.join([torch.stack(groups, 1) for groups in steps]) for steps in (dgates, norms)]


def check_against_oracle(problem, device="cpu"):
    """Forward and BPTT operators, on a device, against the reference in float64 and its derivatives."""
    there = problem.to(device)
    results = there.forward(saves=True)
    dgates = there.bptt(results)[0].cpu()
    gradients = {name: t.cpu() for name, t in there.gradients(results).items()}
    results = [t.cpu() for t in results]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the oracle's small products, on more threads than processors, would take seconds
    try:
        _compare(problem.to(torch.float64), results, dgates, gradients)
    finally:
        torch.set_num_threads(threads)


def _tolerance(cell, dtype):
    """A layer-normalised cell divides by deviations: where these are small, what rounding lost becomes large."""
    return TOLERANCE[dtype] * (8 if cell == "layer_norm_lstm" else 1)


def _compare(exact, results, dgates, actual):
    inputs = {name: t.requires_grad_() for name, t in exact.inputs().items()}
    norms = torch.zeros(exact.gates.shape[:-1], dtype=torch.float64)
    y64, *last64 = expected = exact.reference(norms)
    tolerance = _tolerance(exact.cell, results[0].dtype)
    # A relu's few values may be small sums of large terms.
    states = torch.cat([y64.flatten(), exact.gates.flatten()]) if exact.cell == "elman_relu" else y64
    assert_close(results[0], y64, tolerance, what="y", scale_of=states)
    assert_close(results[1], last64[0], tolerance, what="h_n", scale_of=states)
    if exact.cell.startswith("elman"):
        with torch.no_grad():
            of_results = [0, 2] if exact.is_noisy else [0]
            expected_dgates, norms = elman_bptt(exact, *(results[i].double() for i in of_results))
            assert_close(dgates, expected_dgates, what="dgates")
            return assert_close(actual["norms"], norms, tolerance, what="norms of dh")
    if exact.cell in HAVE_C:
        assert_close(results[2], last64[1], tolerance, what="c_n", scale_of=last64[-1])
        assert_close(results[4], last64[-1], tolerance, what="c")
    by = (exact.dy, exact.dh_n, exact.dc_n, exact.dc)
    given = [(r, d) for r, d in zip(expected, by, strict=False) if d is not None]
    if not given:
        return None
    of, by = zip(*given, strict=True)
    gradients = torch.autograd.grad(of, list(inputs.values()), by, allow_unused=True)
    gradients = [torch.zeros_like(t) if d is None else d for t, d in zip(inputs.values(), gradients, strict=True)]
    # Gradients of weights are sums over all steps and rows, which may cancel; the rounding errors of their terms
    # do not. With 16 bits whatever BPTT reads is rounded.
    terms = [torch.linalg.vector_norm(gradients[0].flatten(0, -3), dim=0)]
    if results[0].element_size() == 2:
        terms += gradients
    for name, gradient in zip(inputs, gradients, strict=True):
        sums = name in ("w_hh", "w_hr", "b_hh") or len(terms) > 1
        scale_of = torch.cat([t.flatten() for t in (gradient, *terms)]) if sums else gradient
        assert_close(actual[name], gradient, tolerance, what=f"gradient for {name}", scale_of=scale_of)
    return assert_close(actual["norms"], norms, tolerance, what="norms of dh")
