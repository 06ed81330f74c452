"""Sentiment: words and their pieces, graded sentences of our own, a regression to compare with."""

import json
import os
import random
from pathlib import Path

import pytest
import torch
from published import looks_right, publish
from torch import nn

from rnnfast.__main__ import main
from rnnfast._program import UserError
from rnnfast.models import run
from rnnfast.recipes import data
from rnnfast.recipes.applications import sentences, sentiment
from rnnfast.recipes.applications.sentences import PIECES, Spelt, SpeltEmbedding, hide
from rnnfast.recipes.applications.sentiment import Coded, PredictSentiment, Sentiment, SentimentModel, positive
from rnnfast.recipes.exercises.sentences import Sentences
from rnnfast.recipes.training import generator
from rnnfast.recipes.vocabulary import UNKNOWN, Vocabulary

pytest.importorskip("accelerate", reason="training needs accelerate")
pytest.importorskip("sklearn", reason="the regression is scikit-learn's")
pytest.importorskip("matplotlib", reason="figures need matplotlib")
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")

REAL = Path(os.environ.get("RNNFAST_DATA", "/nowhere"))
GRADED = (["dreadful", "awful"], ["weak", "dull"], ["plain", "long"], ["fine", "lively"], ["superb", "splendid"])
NOUNS = ["film", "story", "song", "cast", "plot"]
FAST = dict(hidden_size=8, embedding_size=8, models=2, dropout=0.1, hide=0.05, rate=0.02)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def few_buckets(monkeypatch):
    """So that little is allocated."""
    monkeypatch.setattr(sentences, "BUCKETS", 2**11)
    monkeypatch.setattr(sentiment, "NGRAMS", 2**13)


@pytest.fixture
def reviews(monkeypatch, tmp_path):
    """Sentences in which one word tells the grade; "not" turns it round."""

    def lines(count, grades, name):
        found = []
        for i in range(count):
            draw = random.Random(f"{i} {count} {name}")
            grade, turned = grades[i % len(grades)], draw.random() < 0.2
            word = draw.choice(GRADED[4 - grade if turned else grade])
            words = draw.choices(NOUNS, k=2 + i % 3)
            words.insert(draw.randrange(3), f"not {word}" if turned else word)
            label = grade if name == "fine" else int(grade > 2)
            found.append(f"{label} the {' '.join(words)} .")
        return found

    files = {"stsa.fine.train": lines(500, [0, 1, 2, 3, 4], "fine")}
    for part, count in (("train", 240), ("dev", 40), ("test", 60)):
        files[f"stsa.binary.{part}"] = lines(count, [0, 1, 3, 4], part)
    return publish(monkeypatch, tmp_path / "data", "sst", files)


def test_sentiment_is_learnt_and_told(reviews, tmp_path, capsys):
    program = Sentiment(data=reviews, output=tmp_path / "out", epochs=10, **FAST)
    result = program.run()
    *regressions, mean_of_seeds, together = result.data["compared"].values()
    assert len(regressions) == 2
    assert mean_of_seeds["accuracy"] > 0.9
    assert together["accuracy"] > 0.9
    mean = sum(row["accuracy"] for row in result.data["seeds"]) / 2
    assert result.data["gain"] == pytest.approx(mean - max(row["accuracy"] for row in regressions))
    assert looks_right(result)

    file = tmp_path / "lines.txt"
    file.write_text("The story, the cast: SUPERB.\n\nan awful film\n")
    answer = ["predict", "sentiment", str(file), "--checkpoint", str(tmp_path / "out" / "model.pt"), "--json"]
    capsys.readouterr()
    assert main([*answer, "--output", str(tmp_path / "answer")]) == 0
    found = json.loads(capsys.readouterr().out)["sentences"]
    assert [row["sentiment"] for row in found] == ["positive", "negative"]
    assert found[0]["words"] == ["the", "story", ",", "the", "cast", ":", "superb", "."]
    assert max(found[0]["weights"]) == found[0]["weights"][6] > 0
    assert min(found[1]["weights"]) == found[1]["weights"][1] < 0
    assert (tmp_path / "answer" / "words.png").exists()


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@torch.no_grad()
def test_the_model_is_what_its_formula_says(cell):
    spelt = Spelt(Vocabulary(["a", "film", "good"]))
    options = dict(embedding_size=5, hidden_size=4, cell=cell, dropout=0.3)
    model = SentimentModel(len(spelt), layers="rnnfast", **options).eval()
    plain = SentimentModel(len(spelt), layers="torch", **options).eval()
    nn.init.normal_(model.ngrams.vectors.weight)
    plain.load_state_dict(model.state_dict())
    found = Coded.of(Sentences([["a", "good", "film"], ["bad"], ["a", "film"]], [3, 1, 2]), spelt)
    logits = model(*found.rows(torch.arange(3))[:2])
    for i, length in enumerate(found.lengths.tolist()):
        words = found.words[i : i + 1, :length]
        states = run(plain.rnn, plain.embedding(words))[0][0]
        spoken = plain.ngrams.vectors(plain.ngrams.rows(words[..., 0]))[0].sum((0, 1)) / length**0.5
        expected = plain.readout(torch.cat([states.amax(0), states.mean(0)])) + spoken
        torch.testing.assert_close(logits[i], expected, rtol=1e-4, atol=1e-5)
    p = logits.softmax(1)
    expected = p[:, 3:].sum(1) / (p[:, 3:].sum(1) + p[:, :2].sum(1))
    torch.testing.assert_close(positive([model], found), expected)
    torch.testing.assert_close(positive([model, model], found), expected)


def test_words_never_seen_have_pieces(monkeypatch):
    monkeypatch.setattr(sentences, "BUCKETS", 2**14)
    spelt = Spelt(Vocabulary(["film", "films"]))
    film, films, filmed, other = spelt.encode(["film", "films", "filmed", "xyz"])
    assert [int(row[0]) for row in (film, films, filmed, other)] == [2, 3, UNKNOWN, UNKNOWN]
    pieces = [{int(n) for n in row[1:] if n} for row in (film, films, filmed, other)]
    assert len(pieces[0]) == 4 + 3 + 2  # <fi fil ilm lm> <fil film ilm> <film film>
    assert len(pieces[0] & pieces[2]) >= 5
    assert not pieces[0] & pieces[3]
    assert min(map(min, pieces)) >= len(spelt.vocabulary)
    assert max(map(max, pieces)) < len(spelt)
    long = spelt.encode(["x" * 60])
    assert long.shape == (1, 1 + PIECES)
    assert torch.equal(Spelt(Vocabulary(["film", "films"])).encode(["filmed"])[0], filmed)


@torch.no_grad()
def test_embedded_words_are_vectors_and_means_of_pieces():
    spelt = Spelt(Vocabulary(["film"]))
    embedding, tokens = SpeltEmbedding(len(spelt), 3), spelt.encode(["film", "a"])[None]
    found = embedding(torch.cat([tokens, torch.zeros_like(tokens[:, :1])], 1))[0]
    for row, numbers in zip(found, tokens[0], strict=False):
        first, *pieces = [embedding.vectors.weight[n] for n in numbers.tolist() if n]
        torch.testing.assert_close(row, first + torch.stack(pieces).mean(0))
    assert not found[2].any()


def test_hidden_words_have_no_pieces():
    tokens = torch.randint(2, 90, (50, 20, 1 + PIECES))
    tokens[:, 15:] = 0
    before = tokens.clone()
    found = hide(tokens, 0.3, generator(0, 0))
    assert torch.equal(tokens, before)
    hidden = (found != tokens).any(2)
    assert not hidden[:, 15:].any()
    assert 0.25 < hidden[:, :15].float().mean() < 0.35
    assert (found[hidden][:, 0] == UNKNOWN).all()
    assert not found[hidden][:, 1:].any()


def test_words_as_the_treebank_has_them():
    found = sentiment.WORD.findall("don't say it's a well-made film, ok?")
    assert found == ["do", "n't", "say", "it", "'s", "a", "well-made", "film", ",", "ok", "?"]


def test_the_regression_is_chosen_by_the_sentences_to_choose_by(reviews):
    found = data.find("sst", reviews)
    parts = [Sentences.read(found, part) for part in ("train", "dev", "test")]
    answers, chosen = sentiment.regression(*parts)
    assert (answers == torch.tensor(parts[2].classes)).float().mean() > 0.7
    graded = sentiment.regression(Sentences.graded(found), *parts[1:])[0]
    assert (graded == torch.tensor(parts[2].classes)).float().mean() > 0.7
    flipped = Sentences(parts[2].words, [1 - c for c in parts[2].classes])
    assert torch.equal(sentiment.regression(parts[0], parts[1], flipped)[0], answers)
    assert set(chosen) == {"words", "C"}


def test_a_grade_that_is_none(reviews):
    found = data.find("sst", reviews)
    found.files["stsa.fine.train"].write_text("4 good\n5 better\n")
    with pytest.raises(UserError, match=r"fine.train, line 2: got '5 better', expected 0 to 4 and words"):
        Sentences.graded(found)


def test_lines_without_words(reviews, tmp_path):
    Sentiment(data=reviews, output=tmp_path / "out", epochs=1, **FAST | dict(models=1)).run()
    options = dict(checkpoint=tmp_path / "out" / "model.pt")
    assert len(PredictSentiment(input="good\n\n  \nbad", **options).run().data["sentences"]) == 2
    with pytest.raises(UserError, match="INPUT: it is empty, expected sentences, one a line"):
        PredictSentiment(input="", **options).run()


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "sst").is_dir(), reason="RNNFAST_DATA names no folder with sst/")
def test_real_sentences_are_judged_better_than_by_a_regression(monkeypatch):
    monkeypatch.undo()
    result = Sentiment().run()
    assert result.data["compared"]["TF-IDF, logistic regression"]["accuracy"] > 0.77
    assert result.data["gain"] >= 0.01
