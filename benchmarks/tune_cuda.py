"""Times every crew that a GPU can have for a layer, beside cuDNN and beside what the planner takes.

    OUT=folder python benchmarks/tune_cuda.py [--seconds 150] [--kinds LSTM,GRU,RNN] [--batches 16,1,64]

Prints, for each layer, microseconds a step of cuDNN, of the plan, and of the best of all crews; writes every
figure to $OUT/tune.json, for fit_cuda.py. A figure whose results are not cuDNN's is marked with a question mark.
"""

import argparse
import itertools
import json
import os
import time
from pathlib import Path

import torch
from shapes import Pair

import rnnfast

DTYPES = {"bf16": (torch.bfloat16, False), "fp32": (torch.float32, False), "tf32": (torch.float32, True)}
TOLERANCE = {"bf16": 0.06, "fp32": 1e-3, "tf32": 2e-2}
T, REPEATS = 256, 5


def candidates(B):
    for rows in (1, 2, 4, 8, 16, 32):
        if rows > 1 and rows >= 2 * B:
            continue
        for crew, cluster in itertools.product((8, 16, 32, 64, 128), (1, 2, 4, 8)):
            if crew * -(-B // rows) <= 132 and cluster < crew:
                yield dict(schedule="grid", crew=crew, rows=rows, cluster=cluster)
        if rows > 8:
            continue
        yield dict(schedule="cta", crew=1, rows=rows)
        for crew in (2, 4, 8, 16):
            yield dict(schedule="cluster", crew=crew, rows=rows)
            yield dict(schedule="scatter", crew=crew, rows=rows)  # backwards; forwards it is a cluster


def label(wish):
    clusters = f"c{wish['cluster']}" if wish.get("cluster", 1) > 1 else ""
    return f"{wish['schedule']}{wish['crew']}{clusters}r{wish['rows']}{wish['arithmetic'] or ''}"


def microseconds(work):
    """A step, in the median of some runs."""
    work()
    times = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return round(1e3 * sorted(times)[REPEATS // 2] / T, 3)


def calls(layer, pair):
    x = pair.x.detach().requires_grad_()

    def forward():
        with torch.no_grad():
            return layer(pair.x)[0]

    def training():
        output, _ = layer(x)
        return torch.autograd.grad(output, (x, *layer.parameters()), pair.dy)

    return {"forward": forward, "training": training}


def largest_error(found, expected):
    pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
    return max(
        float((a.float() - b.float()).abs().max() / b.float().abs().max().clamp_min(1e-3)) for a, b in pairs
    )


def measure(kind, dtype, B, H):
    of, tf32 = DTYPES[dtype]
    torch.backends.cudnn.allow_tf32 = tf32
    pair = Pair.of(kind, T, B, H, device="cuda", dtype=of)
    pair.peer.flatten_parameters()
    rows = []
    for what, peer in calls(pair.peer, pair).items():
        work = calls(pair.ours, pair)[what]
        expected, cudnn = peer(), microseconds(peer)

        def add(wanted, wish=None, work=work, expected=expected, what=what, cudnn=cudnn):
            error, plan = largest_error(work(), expected), torch.ops.rnnfast.last_cuda_plan()
            rows.append(
                dict(kind=kind, dtype=dtype, B=B, H=H, what=what, wanted=wanted, wish=wish, plan=plan, cudnn=cudnn)
                | dict(us=microseconds(work), error=error, right=error < TOLERANCE[dtype])
            )

        add("plan")
        with rnnfast.forced_plan("stepwise"):
            add("stepwise", dict(schedule="stepwise"))
        for wish in candidates(B):
            if what == "forward" and wish["schedule"] == "scatter":
                continue
            for arithmetic in ("mma", "fma") if tf32 else (None,):
                wish = {**wish, "arithmetic": arithmetic}
                with rnnfast.forced_plan(**wish):
                    work()
                    if torch.ops.rnnfast.last_cuda_plan().startswith(wish["schedule"]):
                        add(label(wish), wish)
    return rows


def in_words(rows):
    parts = []
    for what in ("forward", "training"):
        of = [r for r in rows if r["what"] == what]
        plan, best = of[0], min(of, key=lambda r: r["us"] if r["right"] else float("inf"))
        mark = "" if plan["right"] else "?"
        parts.append(
            f"{what} cuDNN {plan['cudnn']:6.2f} plan {plan['us']:6.2f}{mark} x{plan['cudnn'] / plan['us']:.2f} "
            f"{plan['plan'].split(' blocks')[0]:11} best {best['us']:6.2f} x{best['cudnn'] / best['us']:.2f} "
            f"{best['wanted']:12}"
        )
    wrong = sum(not r["right"] for r in rows)
    return " | ".join(parts) + (f" | {wrong} of {len(rows)} wrong" if wrong else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--kinds", default="LSTM,GRU,RNN")
    parser.add_argument("--dtypes", default="bf16,fp32,tf32")
    parser.add_argument("--batches", default="16,1,64")
    parser.add_argument("--units", default="256,512,128,768,1024,64")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    out = Path(os.environ.get("OUT", "benchmarks/results")) / "tune.json"
    torch.autograd.set_multithreading_enabled(False)  # backward passes in this thread, where plans are forced
    limits = rnnfast.CudaLimits.of(torch.device("cuda", torch.cuda.current_device()))
    machine, found = {"device": torch.cuda.get_device_name(), "limits": limits._asdict()}, []
    sizes = itertools.product(options.batches.split(","), options.units.split(","))
    for (B, H), kind, dtype in itertools.product(sizes, options.kinds.split(","), options.dtypes.split(",")):
        if time.monotonic() > end:
            print("out of time")
            break
        rows = measure(kind, dtype, int(B), int(H))
        found += rows
        out.write_text(json.dumps({**machine, "T": T, "rows": found}))
        print(f"{kind:4} {dtype} B{B} H{H} {in_words(rows)}", flush=True)


if __name__ == "__main__":
    main()
