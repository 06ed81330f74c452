"""The same bits from run to run and over thread counts; many callers at once; after fork and spawn."""

import concurrent.futures
import itertools
import multiprocessing
from dataclasses import replace

import pytest
import torch
from problems import CELLS, draw

import rnnfast

op = torch.ops.rnnfast
LAYERS = [rnnfast.RNN, rnnfast.LSTM, rnnfast.GRU]


def results_of_a_training_step(layer, x):
    layer.zero_grad()
    output, states = layer(x)
    states = states if isinstance(states, tuple) else (states,)
    (output.sum() + sum(s.sum() for s in states)).backward()
    return [output.detach(), *(s.detach() for s in states), *(p.grad.clone() for p in layer.parameters())]


def all_equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_training_step_gives_the_same_bits_each_time(kind, threads):
    torch.set_num_threads(threads)
    layer = kind(33, 65, num_layers=2, bidirectional=True)
    x = torch.randn(20, 13, 33)
    first = results_of_a_training_step(layer, x)
    for _ in range(5):
        assert all_equal(results_of_a_training_step(layer, x), first)


@pytest.mark.parametrize("layout", ["time", "packed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cell", [*CELLS, "lstm projected"])
def test_the_operators_give_the_same_bits_at_any_number_of_threads(cell, dtype, layout):
    plans = set()
    for T, B, H in [(12, 37, 129), (30, 6, 64), (5, 100, 33)]:
        P = H // 2 if "projected" in cell else 0
        p = draw(T, B, H, 2, dtype, cell=cell.split()[0], P=P, direction=2, layout=layout)
        expected = None
        for threads, schedule in itertools.product((1, 2, 3, 5, 8), (None, "batch_split", "unit_split")):
            torch.set_num_threads(threads)
            with rnnfast.forced_plan(schedule, workers=None if schedule is None else threads):
                results = p.forward(saves=True)
                plans.add(op.last_plan())
                got = [*results, p.bptt(results)[0]]
            assert expected is None or all_equal(got, expected), f"{threads} threads, {schedule}"
            expected = got
    assert len(plans) >= 9, "the thread counts did not lead to different plans"


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    ("T", "B", "I", "H"), [(60, 17, 70, 65), (1, 8, 900, 800), (3, 3, 600, 700), (200, 40, 64, 64)]
)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_gives_the_same_bits_at_any_number_of_threads(kind, T, B, I, H, batch_first):  # noqa: E741
    """Up to the size from which on torch's libraries multiply."""
    if kind is not rnnfast.RNN:  # more gates
        I, H = I // 2, H // 2  # noqa: E741
    layer = kind(I, H, batch_first=batch_first)
    x = torch.randn(B, T, I) if batch_first else torch.randn(T, B, I)
    expected = None
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        got = results_of_a_training_step(layer, x)
        assert expected is None or all_equal(got, expected), f"{threads} threads"
        expected = got


@pytest.mark.parametrize("cell", CELLS)
def test_rows_do_not_depend_on_the_batch_they_are_in(cell):
    p = draw(9, 17, 50, dtype=torch.float32, cell=cell)
    for weights in ("packed", "in_place"):  # the one thing that decides in which order sums are formed
        with rnnfast.forced_plan(weights=weights):
            y = p.forward()[0]
            for b in (0, 5, 16):
                own = {
                    name: t[:, b : b + 1] for name in ("gates", "h0", "c0") if (t := getattr(p, name)) is not None
                }
                assert torch.equal(replace(p, **own).forward()[0][:, 0], y[:, b])


def test_many_python_threads_at_once():
    torch.set_num_threads(2)
    work = []
    for _ in range(16):
        layer = rnnfast.RNN(8, int(torch.randint(5, 90, ())), num_layers=2, bidirectional=True)
        x = torch.randn(int(torch.randint(1, 30, ())), int(torch.randint(1, 20, ())), 8)
        work.append((layer, x, results_of_a_training_step(layer, x)))

    def run(item):
        torch.set_num_threads(2)  # a thread of its own has a setting of its own
        layer, x, expected = item
        return all(all_equal(results_of_a_training_step(layer, x), expected) for _ in range(10))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, work))


def train_in_child(layer, x, threads, queue):
    torch.set_num_threads(threads)
    queue.put([t.numpy() for t in results_of_a_training_step(layer, x)])


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_a_child_process(method):
    """As DataLoader's workers do: forked with one thread, after the parent has used several."""
    torch.set_num_threads(2)
    layer, x = rnnfast.RNN(8, 64), torch.randn(40, 16, 8)
    results_of_a_training_step(layer, x)  # the parent's team is alive
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    threads = 1 if method == "fork" else 2
    child = context.Process(target=train_in_child, args=(layer, x, threads, queue))
    child.start()
    got = queue.get(timeout=120)
    child.join(timeout=30)
    assert child.exitcode == 0
    torch.set_num_threads(threads)
    assert all_equal([torch.from_numpy(a) for a in got], results_of_a_training_step(layer, x))


class Encoded(torch.utils.data.Dataset):
    def __init__(self):
        self.layer = rnnfast.RNN(4, 32)

    def __len__(self):
        return 6

    def __getitem__(self, i):
        with torch.no_grad():
            return self.layer(torch.full((20, 8, 4), float(i)))[1]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_a_dataset_of_a_loader():
    torch.set_num_threads(2)
    data = Encoded()
    expected = torch.stack([data[i] for i in range(len(data))])
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert torch.equal(torch.stack(list(loader)), expected)
