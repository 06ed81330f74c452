"""Models of characters and of words: on a text of our own, and (slow) on the real one."""

import itertools
import math
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from published import looks_right

from rnnfast.__main__ import main
from rnnfast._program import UserError
from rnnfast.models import LanguageModel
from rnnfast.recipes.applications import language
from rnnfast.recipes.applications.charlm import CharLM, PredictCharLM
from rnnfast.recipes.applications.language import LanguageTask, Spelling, continued, surprise
from rnnfast.recipes.applications.wordlm import WORDS, PredictWordLM, WordLM
from rnnfast.recipes.recipe import load_model
from rnnfast.recipes.training import Schedule, Trainer
from rnnfast.recipes.vocabulary import UNKNOWN, Vocabulary

pytest.importorskip("accelerate", reason="training needs accelerate")
pytest.importorskip("matplotlib", reason="figures need matplotlib")
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")

REAL = Path(os.environ.get("RNNFAST_DATA", "/nowhere"))
SONG = "one for the heron, two for the hare,\nthree for the water, four for the air;\n"


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def song(tmp_path):
    file = tmp_path / "song.txt"
    file.write_text(SONG * 60)
    return file


def test_characters_are_learnt(song, tmp_path):
    program = CharLM(
        text=song,
        output=tmp_path / "out",
        hidden_size=48,
        embedding_size=12,
        batch_size=8,
        length=40,
        epochs=14,
        rate=0.02,
    )
    result = program.run()
    assert result.data["nats per character"] < 0.15
    assert result.data["unknown"] == 0
    assert len(result.data["sample"]) == 500
    assert looks_right(result)
    answer = PredictCharLM(input="three for the w", checkpoint=tmp_path / "out" / "model.pt", length=20, top_k=1)
    assert answer.run().data["continuation"] == "ater, four for the a"


def test_words_are_learnt(song, tmp_path):
    program = WordLM(
        text=song,
        output=tmp_path / "out",
        hidden_size=32,
        embedding_size=16,
        batch_size=4,
        length=20,
        epochs=14,
        rate=0.02,
        hide=0.05,
        cell="lstm",
    )
    result = program.run()
    assert result.data["nats per character"] < 0.1
    assert result.data["tokens"] == len(set(WORDS.findall(SONG)))
    assert looks_right(result)
    answer = PredictWordLM(input="three for", checkpoint=tmp_path / "out" / "model.pt", length=3, top_k=1)
    assert answer.run().data["continuation"] == " the water,"
    with pytest.raises(UserError, match="holds a model for wordlm, expected one for charlm"):
        load_model(tmp_path / "out" / "model.pt", "charlm")


@pytest.mark.parametrize("text", [SONG, "naïve_x  3.14 — don't\t ok\n\n12ab²", "", "\n a"])
def test_words_are_the_text(text):
    assert "".join(WORDS.findall(text)) == text
    assert WORDS.findall("Go, we 2!") == ["Go", ",", " we", " 2", "!"]


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@torch.no_grad()
def test_states_go_on_from_chunk_to_chunk(cell):
    """The losses of all chunks of an epoch are those of whole rows."""
    model = LanguageModel(9, 4, 6, cell=cell)
    task = LanguageTask(model, torch.randint(2, 9, (203,)), torch.arange(2), 4, 7, seed=3, hide=0.0)
    for epoch in (0, 1):
        steps = range(epoch * task.per_epoch, (epoch + 1) * task.per_epoch)
        batches = [task.batch(step) for step in steps]
        given, following = (torch.cat(parts, 1) for parts in zip(*batches, strict=True))
        assert torch.equal(given[:, 1:], following[:, :-1])
        losses = []
        for step in steps:
            losses.append(task.loss(model, task.batch(step)))
        logits, _ = model(given)
        expected = F.cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="sum")
        assert sum(total.item() for total, _ in losses) == pytest.approx(expected.item(), rel=1e-5)
        assert sum(count for _, count in losses) == following.numel()


def test_an_interrupted_training_goes_on_with_its_states(tmp_path):
    def train(folder, stop=None):
        torch.manual_seed(0)
        task = LanguageTask(LanguageModel(9, 4, 6, cell="lstm"), TOKENS, TOKENS[:20], 4, 7, seed=3, hide=0.1)
        batch = task.batch

        def stopping(step):
            if step == stop:
                raise KeyboardInterrupt
            return batch(step)

        task.batch = stopping
        Trainer(folder=folder, save_every=0).train(task, Schedule(12), "lm")
        return [w.tolist() for w in task.model.state_dict().values()]

    TOKENS = torch.randint(2, 9, (203,))
    expected = train(None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop=5)
    assert train(tmp_path) == expected


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_layers_of_torch_learn_the_same(cell, song):
    options = dict(text=song, hidden_size=8, embedding_size=4, batch_size=8, length=20, epochs=1, dropout=0.0)
    found = [CharLM(cell=cell, layers=layers, **options).fit().progress.losses for layers in ("torch", "rnnfast")]
    assert len(found[0]) > 10
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_it_trains_in_16_bits(song):
    options = dict(text=song, hidden_size=8, embedding_size=4, batch_size=8, length=20, epochs=1, rate=0.02)
    found = [CharLM(precision=precision, **options).fit().progress.losses for precision in ("no", "bf16")]
    assert found[0] != found[1]
    assert found[1] == pytest.approx(found[0], abs=0.1)


def test_tokens_are_hidden_from_the_model_only():
    tokens = torch.randint(2, 9, (2000,))
    shown = LanguageTask(LanguageModel(9, 4, 6), tokens, tokens, 4, 50, seed=3, hide=0.0).batch(1)
    given, following = LanguageTask(LanguageModel(9, 4, 6), tokens, tokens, 4, 50, seed=3, hide=0.3).batch(1)
    assert torch.equal(following, shown[1])
    hidden = given != shown[0]
    assert (given[hidden] == UNKNOWN).all()
    assert 0.15 < hidden.float().mean() < 0.45


@torch.no_grad()
def test_surprise_is_that_of_the_whole_text(monkeypatch):
    model, tokens = LanguageModel(9, 4, 6, cell="lstm"), torch.randint(0, 9, (50,))
    monkeypatch.setattr(language, "CHUNK", 7)
    expected = -model(tokens[None, :-1])[0][0].log_softmax(1).gather(1, tokens[1:, None])[:, 0]
    torch.testing.assert_close(surprise(model, tokens), expected)


def test_spelling_is_a_probability():
    """Of all that may follow a beginning, one unknown character among them, the shares sum to 1."""
    spelling = Spelling(["abba", "cab", "ab"])
    for begin in ("", "a", "ab", "cc", "?a"):
        ended = {c: spelling(begin + c) for c in "abc?"}
        p = {c: spelling._p((2 * language.BEFORE + begin)[-2:], c) for c in ("a", "b", "c", "?", "")}
        assert sum(p.values()) == pytest.approx(1)
        assert all(value > 0 for value in p.values())
        for c, cost in ended.items():
            end = -math.log(spelling._p((2 * language.BEFORE + begin + c)[-2:], ""))
            assert cost == pytest.approx(spelling(begin) + math.log(p[""]) - math.log(p[c]) + end)
    assert spelling("ab") < spelling("ba") < spelling("zz")


def test_rare_words_cost_their_characters(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("a b a b " * 200 + "a zebra " + "a b " * 21 + "a")  # the held-out tenth has the only zebra
    program = WordLM(text=file, hidden_size=4, embedding_size=4, batch_size=2, length=10, epochs=1)
    trained = program.fit()
    assert "zebra" in trained.held_out
    result = program.report(trained)
    pieces = WORDS.findall(trained.held_out)
    nats = surprise(trained.task.model, trained.task.held_out).sum().item()
    rare = [piece for piece in pieces[1:] if piece not in trained.vocabulary.tokens]
    assert rare == [" zebra"]
    expected = (nats + trained.spelling(" zebra")) / (len(trained.held_out) - len(pieces[0]))
    assert result.data["nats per character"] == pytest.approx(expected)
    assert result.data["unknown"] == pytest.approx(1 / (len(pieces) - 1))


def test_nothing_is_drawn_that_is_no_text():
    vocabulary = Vocabulary("ab")
    model = LanguageModel(4, 4, 6)
    with torch.no_grad():
        model.readout.bias[:2] = 50.0
    before = model.readout.bias.detach().clone()
    drawn = continued(model, vocabulary, torch.tensor([2, 3]), 200, 1.0, None)
    assert set(drawn) == {"a", "b"}
    assert torch.equal(model.readout.bias, before)


def test_held_out_text_is_not_trained_on(song, tmp_path):
    other = tmp_path / "other.txt"
    cut = len(SONG * 60) - int(0.1 * len(SONG * 60))
    other.write_text((SONG * 60)[:cut] + "x" * (len(SONG * 60) - cut))
    options = dict(hidden_size=4, embedding_size=4, batch_size=4, length=30, epochs=1)
    weights = [CharLM(text=file, **options).fit().task.model.state_dict() for file in (song, other)]
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"too short", r"--text: \d+ tokens to train on, expected at least 3,264"),
        (b"", r"--text: 0 tokens to train on"),
        (b"\xff\xfe", r"--text: .*text.txt is not UTF-8 \(byte 0 does not fit\)"),
    ],
)
def test_a_text_that_is_none(content, message, tmp_path, capsys):
    file = tmp_path / "text.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        CharLM(text=file).run()
    assert main(["train", "charlm", "--text", str(tmp_path / "none.txt"), "--output", str(tmp_path)]) == 2
    assert "--text: cannot read" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "tinyshakespeare").is_dir(), reason="RNNFAST_DATA names no folder with it")
@pytest.mark.parametrize(("program", "most"), [(CharLM, 1.95), (WordLM, 2.0)])
def test_language_models_on_the_real_text(program, most):
    result = program(hidden_size=128, epochs=1).run()
    assert result.data["nats per character"] < most
    assert sum(1 for _ in itertools.takewhile(str.isprintable, result.data["sample"])) > 0
