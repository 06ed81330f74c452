"""The laboratory's tasks, its training loop, and comparisons of models."""

import math
import threading

import pytest
import torch
from torch import Generator, nn

from rnnfast import lab
from rnnfast.lab import memory, solutions
from rnnfast.lab.comparison import thinned
from rnnfast.lab.tasks import HELD_OUT
from rnnfast.models import LanguageModel, ReadoutRNN

TEXT = "abc " * 100 + "xyz!" * 20


def drawn(task, size=2000):
    return task.batch(size, Generator().manual_seed(torch.randint(0, 2**31, ()).item()))


def test_copy_first_asks_for_the_first_value():
    inputs, targets = drawn(lab.CopyFirst(7, noise=0.2))
    assert inputs.shape == (2000, 7, 1)
    assert torch.equal(targets, inputs[:, 0])
    assert inputs[:, 1:].std().item() == pytest.approx(0.2, rel=0.1)
    assert targets.var().item() == pytest.approx(lab.CopyFirst(7).baseline, rel=0.2)


def test_adding_asks_for_the_sum_of_the_marked():
    inputs, targets = drawn(lab.Adding(9))
    numbers, marks = inputs.unbind(-1)
    for number, mark, target in zip(numbers.tolist(), marks.tolist(), targets.flatten().tolist(), strict=True):
        assert sorted(mark) == [0.0] * 7 + [1.0] * 2
        assert sum(mark[:4]) == 1
        assert target == pytest.approx(sum(n for n, m in zip(number, mark, strict=True) if m))
    assert targets.var().item() == pytest.approx(lab.Adding(9).baseline, rel=0.2)


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_smoothing_cannot_be_done_better_than_its_floor_without_the_future(delay):
    """The best linear function of what has been seen, which for Gaussian values is the best of all."""
    task = lab.Smoothing(20, reach=3, delay=delay)
    inputs, targets = drawn(task, 20_000)
    assert targets.var().item() == pytest.approx(task.baseline, rel=0.1)
    seen = inputs[:, : 3 + 1 + delay, 0].double()  # the first answer, for step 3, is given at step 3 + delay
    wanted = targets[:, 0].double()
    residual = wanted - seen @ torch.linalg.lstsq(seen, wanted).solution
    assert residual.square().mean().item() == pytest.approx(task.causal_floor, rel=0.05, abs=1e-6)
    perfect = torch.full((20_000, 20, 1), torch.nan)
    perfect[:, 3 + delay : 20 - 3 + delay] = targets[:, : 20 - 2 * 3]
    assert task.loss(perfect, targets) == 0


def test_opinions_are_counted():
    task = lab.Opinions(8)
    words, labels = drawn(task, 300)
    for sentence, label in zip(words.tolist(), labels.tolist(), strict=True):
        total = 0
        for before, word in zip([19, *sentence], sentence, strict=False):
            value = 1 if 4 <= word < 8 else -1 if 8 <= word < 12 else 0
            total += -value if before < 4 else value
        assert label == (total > 0)
    assert 0 < labels.float().mean() < 1
    assert 0 < task.baseline <= math.log(2)


def test_characters_hold_their_last_tenth_out():
    task = lab.Characters(6, TEXT[:400] + "xyz!" * 11)
    inputs, targets = drawn(task, 500)
    learnt, held_out = ["".join(task.alphabet[i] for i in part.unique()) for part in (inputs, task.held_out()[0])]
    assert learnt == " abc"
    assert held_out == "!xyz"
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert task.baseline == pytest.approx(math.log(4), rel=0.01)
    assert len(task.held_out()[0]) == HELD_OUT // 2


@pytest.mark.parametrize("task", [lab.CopyFirst(4), lab.Adding(4), lab.Smoothing(9, 2), lab.Opinions(4)])
def test_held_out_sequences_are_always_the_same_and_not_those_of_training(task):
    inputs, _ = task.held_out()
    assert torch.equal(inputs, task.held_out()[0])
    assert len(inputs) == HELD_OUT
    assert not any(torch.equal(inputs[:32], task.batch(32, Generator().manual_seed(seed))[0]) for seed in range(5))


def small(seed, cell="gru"):
    torch.manual_seed(seed)
    return ReadoutRNN(1, 8, 1, cell=cell)


def test_training_lowers_the_loss_and_repeats_itself():
    runs = [lab.train(small(3), lab.CopyFirst(4), steps=150, seed=5) for _ in range(2)]
    assert runs[0] == runs[1]
    assert len(runs[0].losses) == 150
    assert runs[0].error < 0.5 < runs[0].losses[0]
    assert runs[0].norms == []
    other = lab.train(small(3), lab.CopyFirst(4), steps=3, seed=6)
    assert other.losses[0] != runs[0].losses[0]


def test_one_step_of_training_is_torchs():
    task, model, twin = lab.CopyFirst(4), small(1), small(1)
    run = lab.train(model, task, steps=1, batch_size=7, rate=0.25, clip=0.1, optimizer="sgd", seed=2)
    inputs, targets = task.batch(7, Generator().manual_seed(2))
    loss = (twin(inputs)[0][:, -1] - targets).square().mean()
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in twin.parameters()]).norm()
    assert run.losses == [pytest.approx(loss.item())]
    assert run.norms == [pytest.approx(norm.item())]
    for p, other in zip(model.parameters(), twin.parameters(), strict=True):
        step = 0.25 * other.grad * min(1, 0.1 / norm)
        torch.testing.assert_close(p, other - step, rtol=1e-4, atol=1e-6)


def test_norms_are_noted_without_a_limit():
    free = lab.train(small(1), lab.CopyFirst(4), steps=5)
    noted = lab.train(small(1), lab.CopyFirst(4), steps=5, norms=True)
    assert noted.losses == free.losses
    assert len(noted.norms) == 5
    assert min(noted.norms) > 0


def test_training_ends_once_the_loss_is_low_enough():
    run = lab.train(small(0), lab.CopyFirst(2), steps=1000, stop_at=0.1)
    assert 20 <= len(run.losses) < 1000
    assert sum(run.losses[-20:]) / 20 <= 0.1 < sum(run.losses[-21:-1]) / 20
    assert not run.diverged


def test_training_that_diverges_ends():
    run = lab.train(small(0, "rnn"), lab.CopyFirst(3), steps=500, optimizer="sgd", rate=1e10)
    assert run.diverged
    assert len(run.losses) < 500
    found = lab.Comparison(lab.CopyFirst(3), {"rnn": [run]}, {"rnn": 1})
    assert found.error("rnn") == math.inf
    assert found.solved("rnn") == 0


def test_a_model_of_tokens_is_trained_too():
    task = lab.Characters(6, TEXT)
    run = lab.train(LanguageModel(len(task.alphabet), 4, 8), task, steps=60, rate=0.05)
    assert run.losses[-1] < run.losses[0] - 0.5


def candidates():
    return {
        "gru": lambda: ReadoutRNN(1, 4, 1, cell="gru"),
        "slow": lab.Candidate(lambda: ReadoutRNN(1, 4, 1, cell="gru"), {"rate": 1e-9}),
    }


def test_comparisons_do_not_depend_on_how_many_run_side_by_side():
    threads, counted = torch.get_num_threads(), []
    options = dict(seeds=[4, 5, 6], steps=15, rate=0.02, done=lambda: counted.append(threading.current_thread()))
    one = lab.compare(lab.CopyFirst(3), candidates(), workers=1, **options)
    four = lab.compare(lab.CopyFirst(3), candidates(), workers=4, **options)
    assert one == four
    assert counted == [threading.main_thread()] * 12
    assert torch.get_num_threads() == threads
    assert one.parameters == {"gru": 3 * (4 + 16 + 8) + 5, "slow": 3 * (4 + 16 + 8) + 5}
    gru, slow = one.runs["gru"], one.runs["slow"]
    assert [run.losses[0] for run in gru] == [run.losses[0] for run in slow]  # the same seeds
    assert gru[0].losses[0] != gru[1].losses[0]
    assert gru[0].losses[-1] != slow[0].losses[-1]  # its own rate


def test_an_error_in_one_run_ends_the_comparison():
    with pytest.raises(RuntimeError, match="input"):
        lab.compare(lab.Adding(4), candidates(), steps=2)


def comparison(task=None, **errors):
    """Made-up runs with these errors."""
    runs = {name: [lab.Run([1.0, e], [], e) for e in of] for name, of in errors.items()}
    return lab.Comparison(task or lab.CopyFirst(10), runs, dict.fromkeys(runs, 1))


def test_solved_is_a_tenth_of_what_ignoring_the_input_gives():
    found = comparison(some=[0.1, 0.11, 0.01, 5.0])
    assert found.solved("some") == 0.5
    assert found.error("some") == pytest.approx(0.105)
    adding = comparison(lab.Adding(10), some=[0.1, 0.016])
    assert adding.solved("some") == 0.5


def test_curves_are_thinned():
    assert thinned([1.0, 3.0, 5.0, 7.0, 9.0], points=2) == [2, 6]
    assert thinned([1.0], points=100) == [1]


def test_effects_and_their_claims():
    errors = {name: [1.0, 1.0, 1.0] for name in solutions.SOLUTIONS}
    errors |= {"LSTM": [0.01] * 3, "GRU": [0.01, 0.01, 1.0], "attention": [0.01, 1.0, 1.0]}
    found = comparison(**errors)
    effects = {name: lab.effect(found, name, solutions.BASE) for name in errors}
    assert effects["LSTM"] == "very effective"
    assert effects["GRU"] == "effective"
    assert effects["attention"] == "modest"
    assert effects["gradient clipping"] == "none"
    claims = {claim.text.split(":")[0]: claim for claim in solutions._claims("copy-first", found)}
    assert [name for name, claim in claims.items() if claim.holds] == ["gradient clipping", "LSTM"]
    assert "effective, less than that (67% of the seeds" in claims["GRU"].measured
    base = comparison(**{solutions.BASE: [0.01, 1.0, 1.0], "attention": [0.01, 1.0, 1.0]})
    assert lab.effect(base, "attention") == "none"


def test_reach_ends_at_the_first_length_that_most_fail():
    found = lab.Memory(
        {
            10: comparison(a=[0.0, 0.0], b=[1.0, 1.0], c=[0.0, 0.0]),
            20: comparison(a=[0.0, 1.0], b=[0.0, 0.0], c=[0.0, 0.0]),
        }
    )
    assert [found.reach(name) for name in "abc"] == [10, 0, 20]
    assert found.solve_all() == ["c"]


def test_claims_about_memory_follow_the_numbers():
    """The same claims, once with numbers that agree with the text and once with such that do not."""
    good, bad = [0.01, 0.02], [1.0, 0.9]

    def holds(**errors):
        claims = memory.claims_about(lab.Memory({30: comparison(**errors)}))
        return [claim.holds for claim in claims]

    assert holds(feedforward=bad, rnn=bad, lstm=good, gru=good) == [True, True, True]
    assert holds(feedforward=good, rnn=good, lstm=bad, gru=good) == [False, False, False]
    assert holds(rnn=bad) == [True]


@pytest.mark.parametrize("name", lab.CANDIDATES)
@pytest.mark.parametrize("task", [lab.CopyFirst(12), lab.Adding(12)], ids=lambda task: type(task).__name__)
def test_every_candidate_learns_from_what_came_first_but_the_memoryless(name, task):
    torch.manual_seed(0)
    model = lab.CANDIDATES[name](task, 6)
    inputs, targets = task.batch(4, Generator())
    inputs.requires_grad_()
    result = model(inputs)
    outputs = result[0] if isinstance(result, tuple) else result
    assert outputs[:, -1].shape == targets.shape
    (gradient,) = torch.autograd.grad(outputs[:, -1].sum(), inputs)
    assert bool(gradient[:, 0].any()) == (name != "feedforward")
    assert gradient[:, -1].any()


def test_widths_of_equal_parameter_counts():
    for depth in (2, 3, 4):

        def make(width, depth=depth):
            return nn.RNN(10, width, depth)

        budget = lab.count(nn.RNN(10, 128))
        width = lab.width_for(make, budget)
        sizes = [lab.count(make(w)) for w in range(1, 200)]
        assert width == 1 + min(range(199), key=lambda i: abs(sizes[i] - budget))
        assert abs(sizes[width - 1] - budget) <= 0.02 * budget
    with pytest.raises(ValueError, match=r"^parameters: got 7, the nearest there is has 5$"):
        lab.width_for(lambda width: nn.RNN(2, width), 7)
    with pytest.raises(ValueError, match=r"^parameters: got 1000000, the nearest there is has "):
        lab.width_for(lambda width: nn.RNN(2, width), 1_000_000, widest=50)
