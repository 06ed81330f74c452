"""Generating: distributions, beam search against exhaustive search, and the steps that it takes."""

import itertools
from itertools import islice

import pytest
import torch

from rnnfast.models import CELLS, LanguageModel, Seq2Seq, SequenceGenerator, decoding

END = 1


def sharpened(model, factor=6.0):
    """The same model with more decided predictions, in float64."""
    model = model.double()
    for parameter in model.parameters():
        parameter.data.mul_(factor)
    return model


@pytest.fixture
def probabilities(monkeypatch):
    """What tokens are drawn from, in order."""
    drawn_from, multinomial = [], torch.multinomial

    def recorded(p, *args, **options):
        drawn_from.append(p)
        return multinomial(p, *args, **options)

    monkeypatch.setattr(torch, "multinomial", recorded)
    return drawn_from


class TestSampling:
    logits = torch.log(torch.tensor([[0.05, 0.4, 0.2, 0.3, 0.05], [0.02, 0.01, 0.9, 0.03, 0.04]]))

    def drawn_from(self, probabilities, **options):
        decoding.sampling(**options)(self.logits)
        return probabilities[-1]

    def test_temperature(self, probabilities):
        expected = torch.tensor([0.05, 0.4, 0.2, 0.3, 0.05]) ** 2
        torch.testing.assert_close(self.drawn_from(probabilities, temperature=0.5)[0], expected / expected.sum())

    def test_top_k(self, probabilities):
        expected = torch.tensor([[0, 4 / 7, 0, 3 / 7, 0], [0, 0, 90 / 94, 0, 4 / 94]])
        torch.testing.assert_close(self.drawn_from(probabilities, top_k=2), expected)
        torch.testing.assert_close(self.drawn_from(probabilities, top_k=9), self.logits.exp())

    def test_nucleus(self, probabilities):
        expected = torch.tensor([[0, 4 / 9, 2 / 9, 3 / 9, 0], [0, 0, 1, 0, 0]])
        torch.testing.assert_close(self.drawn_from(probabilities, top_p=0.85), expected)
        assert self.drawn_from(probabilities, top_p=1e-6)[0].tolist() == [0, 1, 0, 0, 0]
        torch.testing.assert_close(self.drawn_from(probabilities, top_p=1.0), self.logits.exp())

    def test_nucleus_of_the_k_most_probable(self, probabilities):
        # 4/9, 3/9, 2/9 remain, of which the first two cover 7/9.
        p = self.drawn_from(probabilities, top_k=3, top_p=0.7)[0]
        torch.testing.assert_close(p, torch.tensor([0, 4 / 7, 0, 3 / 7, 0]))

    def test_frequencies(self):
        n = 20_000
        drawn = decoding.sampling(temperature=2.0)(self.logits[:1].expand(n, -1))
        p = (self.logits[0] / 2).softmax(0)
        apart = drawn.bincount(minlength=5) / n - p
        assert (apart.abs() < 5 * (p * (1 - p) / n).sqrt()).all()

    def test_a_generator_of_ones_own(self):
        draws = [
            decoding.sampling(generator=torch.Generator().manual_seed(4))(self.logits.expand(2, 5))
            for _ in range(2)
        ]
        assert torch.equal(*draws)


def exhaustion(logits_of, V, max_length, penalty):
    """The score of all sequences that end, or that are as long as they may be, by their tokens without END."""
    found = {}
    others = [token for token in range(V) if token != END]
    for n in range(max_length + 1):
        ending = [END] if n < max_length else []
        whole = torch.tensor([[*tokens, *ending] for tokens in itertools.product(others, repeat=n)])
        given = torch.cat([torch.zeros_like(whole[:, :1]), whole[:, :-1]], 1)
        log_p = logits_of(given).log_softmax(2).gather(2, whole.unsqueeze(2)).sum((1, 2))
        scores = log_p / ((5 + whole.size(1)) / 6) ** penalty
        found.update(zip(map(tuple, whole[:, :n].tolist()), scores.tolist(), strict=True))
    return found


V, LENGTH = 4, 4


@pytest.mark.parametrize("beam", [3, 200])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("cell", CELLS)
def test_scores_are_true_and_a_wide_beam_finds_the_best_of_all(cell, penalty, beam):
    model = sharpened(SequenceGenerator(3, 5, V, cell=cell, num_layers=2), 3.0)
    features = torch.randn(3, 3, dtype=torch.float64)
    state = model.initial_state(features)
    logits, after = model.decoder.step(torch.zeros(3, dtype=torch.int64), state)
    found = decoding.beam_search(
        model.decoder.step, logits, after, beam=beam, max_length=LENGTH, end=END, length_penalty=penalty
    )
    for i, hypotheses in enumerate(found):
        scores = exhaustion(lambda given, i=i: model(features[[i] * len(given)], given), V, LENGTH, penalty)
        assert hypotheses[0].tokens == [*max(scores, key=scores.get)] or beam < 200
        for tokens, score in hypotheses:
            assert score == pytest.approx(scores[tuple(tokens)], abs=1e-9)
        found = [hypothesis.score for hypothesis in hypotheses]
        assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("attention", ["bahdanau", "luong"])
def test_beginnings_of_a_row_attend_to_its_own_source(attention):
    model = sharpened(Seq2Seq(9, V, 4, 5, cell="lstm", bidirectional=True, attention=attention), 3.0)
    source, lengths = torch.randint(0, 9, (3, 6)), torch.tensor([6, 2, 4])
    decoded = model.decode(source, lengths, start=0, end=END, max_length=LENGTH, beam=200)
    for i in range(3):
        scores = exhaustion(
            lambda given, i=i: model(source[[i] * len(given)], given, lengths[[i] * len(given)]), V, LENGTH, 0.0
        )
        assert decoded[i] == [*max(scores, key=scores.get)]


def by_table(after, **options):
    """What is generated where each token's followers have these probabilities, beginning after 0."""

    def step(tokens, state):
        return torch.log(torch.tensor([after[token] for token in tokens.tolist()])), state

    first, state = step(torch.zeros(1, dtype=torch.int64), torch.zeros(1, 1, 1))
    (tokens,) = decoding.generate(step, first, state, end=END, **options)
    return tokens


def test_a_beam_of_two_sees_past_a_tempting_first_token():
    after = {0: [0.0, 0.0, 0.6, 0.4], 2: [0.0, 0.34, 0.33, 0.33], 3: [0.0, 1.0, 0.0, 0.0]}
    assert by_table(after, max_length=5)[0] == 2
    assert by_table(after, max_length=5, method="beam", beam=2) == [3]


def test_beginnings_that_end_leave_room_for_others():
    # END is the best first token; with it set aside both others go on, and the last of the three wins by length.
    after = {
        0: [0.0, 0.4, 0.32, 0.28, 0.0],
        2: [0.25, 0.0, 0.25, 0.25, 0.25],
        3: [0.0, 0.0, 0.0, 0.0, 1.0],
        4: [0.0, 0.001, 0.0, 0.0, 0.999],
    }
    options = dict(max_length=6, method="beam", length_penalty=1.0)
    assert by_table(after, beam=2, **options) == [3, 4, 4, 4, 4, 4]
    assert by_table(after, beam=1, **options) == []  # as greedily, though a longer one would score better
    assert by_table(after, beam=2, **options | dict(length_penalty=0.0)) == []


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("beam", [2, 3])
def test_improbable_ends_do_not_crowd_out_what_is_still_open(beam, penalty):
    after = {0: [0.0, 0.08, 0.02, 0.9], 2: [0.0, 0.0, 0.5, 0.5], 3: [0.0, 0.08, 0.0, 0.0, 0.92]}
    after |= {4: [0.0, 0.0, 0.0, 0.0, 0.0, 1.0], 5: [0.0, 1.0]}
    after = {token: row + [0.0] * (6 - len(row)) for token, row in after.items()}
    options = dict(max_length=8, method="beam", beam=beam, length_penalty=penalty)
    assert by_table(after, **options) == [3, 4, 5]


def rows_and_models(cell):
    features, source = torch.randn(4, 3, dtype=torch.float64), torch.randint(0, 9, (4, 5))
    generator = sharpened(SequenceGenerator(3, 8, 5, cell=cell, num_layers=2))
    translator = sharpened(Seq2Seq(9, 5, 4, 8, cell=cell, attention="luong"))
    model = sharpened(LanguageModel(9, 4, 8, cell=cell))
    return [
        (features, lambda x, **o: generator.generate(x, 12, **o)),
        (source, lambda x, **o: translator.decode(x, start=0, end=END, max_length=12, **o)),
        (source, lambda x, **o: model.generate(x, 12, end=END, **o)),
    ]


@pytest.mark.parametrize("cell", CELLS)
def test_a_beam_of_one_is_greedy(cell):
    for rows, generate in rows_and_models(cell):
        greedy = generate(rows, method="greedy")
        for penalty in (0.0, 1.0):
            assert generate(rows, method="beam", beam=1, length_penalty=penalty) == greedy
        assert generate(rows, method="sample", top_k=1) == greedy


@pytest.mark.parametrize("cell", CELLS)
def test_rows_of_a_batch_do_not_meet(cell):
    for rows, generate in rows_and_models(cell):
        for options in (dict(method="greedy"), dict(method="beam", beam=3, length_penalty=0.6)):
            together = generate(rows, **options)
            assert together == [generate(rows[i : i + 1], **options)[0] for i in range(len(rows))]


def test_sequences_end_where_they_should():
    def step(tokens, state):  # counts up from the row's own first token to END, which is the 1 after 5
        following = torch.where(tokens == 5, 1, tokens + 1) % 9
        return torch.nn.functional.one_hot(following, 9).double() * 9, state + 1

    first, state = step(torch.tensor([3, 1, 4]), torch.zeros(1, 3, 1))
    for method in ("greedy", "beam"):
        found = decoding.generate(step, first, state, max_length=10, end=END, method=method)
        assert found == [[4, 5], [2, 3, 4, 5], [5]]
        cut = decoding.generate(step, first, state, max_length=2, end=END, method=method)
        assert cut == [[4, 5], [2, 3], [5]]


def test_greedy_stops_when_all_rows_have_ended():
    taken = []

    def step(tokens, state):
        taken.append(tokens)
        return torch.tensor([[0.0, 9.0], [0.0, 9.0]]), state

    assert decoding.generate(step, torch.tensor([[9.0, 0], [0, 9.0]]), None, max_length=50, end=END) == [[0], []]
    assert len(taken) == 1


@pytest.mark.parametrize("attention", [None, "bahdanau", "luong", "scaled_luong"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_decoding_by_steps_equals_teacher_forcing(cell, bidirectional, attention):
    options = dict(cell=cell, num_layers=2, dropout=0.5, bidirectional=bidirectional, attention=attention)
    model = sharpened(Seq2Seq(9, 7, 4, 8, **options), 2.0).eval()
    source, lengths = torch.randint(0, 9, (3, 6)), torch.tensor([6, 2, 4])
    by_steps = []
    handle = model.decoder.readout.register_forward_hook(lambda module, args, logits: by_steps.append(logits))
    decoded = model.train().decode(source, lengths, start=0, end=None, max_length=8)
    handle.remove()
    assert model.training
    assert model.decoder.rnn.training
    assert len(by_steps) == 8
    tokens = torch.tensor(decoded)
    target = torch.cat([torch.zeros(3, 1, dtype=torch.int64), tokens[:, :-1]], 1)
    logits = model.eval()(source, target, lengths)
    torch.testing.assert_close(torch.stack(by_steps, 1), logits, rtol=0, atol=1e-9)
    assert torch.equal(logits.argmax(2), tokens)
    if attention is not None:
        weights = model.train().weights(source, target, lengths)
        assert torch.equal(weights, model.eval().weights(source, target, lengths))
        assert not weights.requires_grad


class TestStreaming:
    @pytest.fixture
    def steps(self):
        """A model and the number of steps of each call of its layer."""
        model = sharpened(LanguageModel(9, 4, 8, cell="lstm", num_layers=2, dropout=0.4), 2.0)
        taken = []
        model.rnn.register_forward_hook(lambda module, args, result: taken.append(args[0].size(1)))
        return model, taken

    def test_one_step_for_each_token(self, steps):
        model, taken = steps
        tokens = model.stream(torch.randint(0, 9, (3, 7)))
        assert taken == [7]
        assert next(tokens).shape == (3,)
        assert taken == [7]
        assert len(list(islice(tokens, 20))) == 20
        assert taken == [7] + [1] * 20
        taken.clear()
        model.generate(torch.randint(0, 9, (3, 7)), 20)
        assert taken == [7] + [1] * 19

    def test_carried_state_equals_the_whole_text_again(self, steps):
        model, _ = steps
        prompt = torch.randint(0, 9, (3, 7))
        streamed = torch.stack(list(islice(model.stream(prompt, top_k=1), 15)), 1)
        text = prompt
        model.eval()
        for _ in range(15):
            text = torch.cat([text, model(text)[0][:, -1:].argmax(2)], 1)
        assert torch.equal(streamed, text[:, 7:])

    def test_it_goes_on_from_a_state(self, steps):
        model, taken = steps
        prompt = torch.randint(0, 9, (3, 7))
        model.eval()
        seen = []
        model.readout.register_forward_hook(lambda module, args, logits: seen.append(logits))
        expected = model.generate(prompt, 9, method="greedy")
        whole = list(seen)
        state = model(prompt[:, :4])[1]
        taken.clear()
        seen.clear()
        assert model.generate(prompt[:, 4:], 9, state=state, method="greedy") == expected
        assert taken == [3] + [1] * 8
        torch.testing.assert_close(seen, whole, rtol=0, atol=1e-10)
        continued = model.stream(prompt[:, 4:], state=state, top_k=1)
        assert [row.tolist() for row in torch.stack(list(islice(continued, 9)), 1)] == expected

    def test_it_leaves_the_mode_and_keeps_no_graph(self, steps):
        model, _ = steps
        seen = []
        model.readout.register_forward_hook(lambda module, args, logits: seen.append(logits.requires_grad))
        model.rnn.eval()  # a part that was frozen stays so
        assert len(list(islice(model.stream(torch.zeros(1, 1, dtype=torch.int64)), 3))) == 3
        assert model.training
        assert not model.rnn.training
        assert seen == [False] * 3
        logits, state = model.step(torch.zeros(1, dtype=torch.int64), None)
        assert logits.shape == (1, 9)
        assert state[0].shape == (2, 1, 8)
