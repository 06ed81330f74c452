"""What noise on states is, by the papers: words of Philox in whole numbers of Python, masks, and layers as loops
over their steps, in plain torch.
"""

import math

import torch
import torch.nn.functional as F

LOW = 0xFFFFFFFF
ALL_STEPS = 0xFFFFFFFF


def philox(counter, key):
    """Four words, as Salmon et al. have them: counter and key are words of 32 bits."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & LOW, (a >> 32) ^ c[3] ^ k[1], a & LOW]
        k = [(k[0] + 0x9E3779B9) & LOW, (k[1] + 0xBB67AE85) & LOW]
    return c


def happens(seed, p, which, rows, units, step, group=0):
    """Where something of that probability happens, bool (rows, units); which: of the words drawn at a place."""
    key = int(seed[0]) & LOW, (int(seed[0]) >> 32) & LOW
    words = [[philox((u, r, step & LOW, group), key)[which] for u in range(units)] for r in range(rows)]
    return torch.tensor([[(w >> 8) < math.ceil(p * 2**24) for w in row] for row in words])


def drawn(rates, seed, rows, steps, units, state, group=0):
    """Factors of candidates, (rows, units); where h is kept, a list of (rows, state); where c is, likewise."""
    dropout, *zoneout = rates
    factor = (~happens(seed, dropout, 0, rows, units, ALL_STEPS, group)).double() / (1 - dropout)
    kept = [
        [happens(seed, p, i, rows, width, t + int(seed[1]), group).double() for t in range(steps)]
        for i, (p, width) in enumerate(zip(zoneout, (state, units), strict=True))
    ]
    return factor, *kept


def on_average(rates, rows, steps, units, state):
    """What takes the place of masks in evaluation."""
    _, p, q = rates
    return (
        torch.ones(rows, units).double(),
        [torch.full((rows, state), p, dtype=torch.float64)] * steps,
        [torch.full((rows, units), q, dtype=torch.float64)] * steps,
    )


def loop(layer, x, h, c, masks, suffix="_l0"):
    """One direction of one layer over x (T, B, I), first step first: output, h, and of an LSTM c."""
    factor, kept_h, kept_c = masks
    w_ih, w_hh, w_hr, b_ih, b_hh, n_ih, n_hh, n_c, n_bias = [
        getattr(layer, name + suffix, None)
        for name in (
            *("weight_ih", "weight_hh", "weight_hr", "bias_ih", "bias_hh"),
            *("norm_ih", "norm_hh", "norm_c", "norm_c_bias"),
        )
    ]
    outputs = []
    for t, x_t in enumerate(x):
        of_x, of_h = x_t @ w_ih.T, h @ w_hh.T
        if n_ih is not None:
            of_x, of_h = [F.layer_norm(v, v.shape[-1:], n) for v, n in ((of_x, n_ih), (of_h, n_hh))]
        if b_ih is not None:
            of_x, of_h = of_x + b_ih, of_h + b_hh
        if layer.mode == "LSTM":
            i, f, g, o = (of_x + of_h).chunk(4, 1)
            # Semeniuta et al., equation 10: d(g); Krueger et al., equation 5 on: h by the new c, then both zoned.
            new_c = f.sigmoid() * c + i.sigmoid() * (g.tanh() * factor)
            seen = new_c if n_c is None else F.layer_norm(new_c, new_c.shape[-1:], n_c, n_bias)
            new_h = o.sigmoid() * seen.tanh()
            new_h = new_h if w_hr is None else new_h @ w_hr.T
            c = kept_c[t] * c + (1 - kept_c[t]) * new_c
        elif layer.mode == "GRU":
            (x_r, x_z, x_n), (h_r, h_z, h_n) = of_x.chunk(3, 1), of_h.chunk(3, 1)
            z = (x_z + h_z).sigmoid()
            new_h = (1 - z) * ((x_n + (x_r + h_r).sigmoid() * h_n).tanh() * factor) + z * h
        else:
            new_h = (of_x + of_h).tanh() if layer.mode == "RNN_TANH" else (of_x + of_h).relu()
            new_h = new_h * factor
        h = kept_h[t] * h + (1 - kept_h[t]) * new_h
        outputs.append(h)
    return torch.stack(outputs), h, c
