"""Entities: files of tagged words, what is counted, sentences of our own that are learnt."""

import json
import os
import random
from pathlib import Path

import pytest
import torch
from published import looks_right, publish

from rnnfast.__main__ import main
from rnnfast._program import UserError
from rnnfast.models import Tagger
from rnnfast.recipes.applications import entities, ner, sentences
from rnnfast.recipes.applications.entities import Tagged, begun
from rnnfast.recipes.applications.ner import SENTENCE, WITH, WITHOUT, WORD, Coded, Ner, by_heart, f1, spans
from rnnfast.recipes.applications.sentences import Spelt, SpeltEmbedding
from rnnfast.recipes.vocabulary import Vocabulary

pytest.importorskip("accelerate", reason="training needs accelerate")
pytest.importorskip("matplotlib", reason="figures need matplotlib")
pytest.importorskip("sklearn", reason="entities are counted by scikit-learn")
pytest.importorskip("torchcrf", reason="the CRF is pytorch-crf's")
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")

REAL = Path(os.environ.get("RNNFAST_DATA", "/nowhere"))
FIRST, LAST = ["Ada", "Emil", "Rosa", "Otto"], ["Marlow", "Tarrow", "Sorrow", "Barrow"]
PLACES = ["Northtown", "Easttown", "Milltown", "Oldtown", "New Westtown"]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def few_buckets(monkeypatch):
    monkeypatch.setattr(sentences, "BUCKETS", 400)


@pytest.fixture
def articles(monkeypatch, tmp_path):
    """Documents in which people with a first and a last name, and places, do things."""
    draw, lines = random.Random(0), []
    for _ in range(40):
        for _ in range(4):
            who, where = [draw.choice(FIRST), draw.choice(LAST)], draw.choice(PLACES).split()
            lines += [f"{w} I-PER" for w in who] + [f"{draw.choice(['went', 'came'])} O", "to O"]
            lines += [f"{w} I-LOC" for w in where] + [". O", ""]
        lines.append("-DOCSTART- O")
    return publish(monkeypatch, tmp_path / "data", "wikigold", {ner.FILE: lines})


def test_entities_are_learnt_and_found(articles, tmp_path, capsys):
    program = Ner(
        data=articles,
        output=tmp_path / "out",
        hidden_size=16,
        embedding_size=12,
        epochs=8,
        rate=0.02,
        dropout=0.1,
    )
    result = program.run()
    assert set(result.data["judged"]) == {"words by heart", WITHOUT, WITH}
    for name in (WITHOUT, WITH):
        assert result.data["judged"][name]["F1"] > 0.9
        assert set(result.data["judged"][name]["kinds"]) == {"LOC", "PER"}
    assert looks_right(result)

    text = "Rosa Barrow went to Milltown. Otto Marlow came to New Westtown."
    answer = ["predict", "ner", text, "--checkpoint", str(tmp_path / "out" / "model.pt")]
    capsys.readouterr()
    assert main(answer) == 0
    assert capsys.readouterr().out.splitlines() == [
        "PER   Rosa Barrow",
        "LOC   Milltown",
        "PER   Otto Marlow",
        "LOC   New Westtown",
    ]
    assert main([*answer, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["sentences"]
    assert len(found) == 2
    assert found[0]["entities"][0] == {"text": "Rosa Barrow", "kind": "PER"}
    assert found[1]["words"][-1] == "."


def test_documents_are_read(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("A I-PER\nB I-PER\nC B-PER\n\n\nd O\n-DOCSTART- O\n\nE I-LOC\nF I-ORG\n")
    first, second = entities.read(file)
    assert first == [Tagged(["A", "B", "C"], ["B-PER", "I-PER", "B-PER"]), Tagged(["d"], ["O"])]
    assert second == [Tagged(["E", "F"], ["B-LOC", "B-ORG"])]


def test_tags_that_begin_entities():
    assert begun(["O", "I-A", "I-A", "B-A", "I-B", "O", "I-B"]) == ["O", "B-A", "I-A", "B-A", "B-B", "O", "B-B"]
    assert begun(begun(["I-A", "I-A", "B-A"])) == begun(["I-A", "I-A", "B-A"])
    assert begun([]) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a O\nb\n", "line 2: got 'b', expected a word and a tag"),
        ("a X\n", "line 1: got 'a X'"),
        ("\n", "is empty"),
    ],
)
def test_a_file_that_is_none(content, message, tmp_path):
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(UserError, match=f"data: .*a.txt.* {message}"):
        entities.read(tmp_path / "a.txt")


def test_no_document_is_in_two_parts():
    documents = [[Tagged([f"{d} {s}"], ["O"]) for s in range(3)] for d in range(50)]
    parts = entities.split(documents, 3)
    assert [len(part) // 3 for part in parts] == [35, 5, 10]
    named = [{sentence.words[0].split()[0] for sentence in part} for part in parts]
    assert len(set.union(*named)) == sum(map(len, named)) == 50
    assert entities.split(documents, 3) == parts != entities.split(documents, 4)


def test_entities_are_counted_whole():
    truth = [["B-A", "I-A", "O", "B-B"], ["O", "B-B"]]
    found = [["B-A", "I-A", "O", "B-A"], ["B-B", "I-B"]]
    scores = f1(truth, found)
    assert (scores["precision"], scores["recall"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert scores["kinds"] == {"A": pytest.approx(2 / 3), "B": 0.0}
    assert f1([["O"]], [["O"]]) == {"F1": 0.0, "precision": 0.0, "recall": 0.0, "kinds": {}}
    assert spans(["u", "v", "w", "x"], truth[0]) == [("u v", "A"), ("x", "B")]


def test_words_by_heart():
    train = [Tagged(["Paris", "is", "Paris"], ["B-LOC", "O", "B-LOC"]), Tagged(["Paris"], ["B-PER"])]
    assert by_heart(train, [Tagged(["Paris", "was"], ["O", "O"])]) == [["B-LOC", "O"]]


@pytest.mark.parametrize("crf", [False, True])
def test_a_tagger_with_an_embedding_of_its_own(crf):
    """Padding has no influence on loss or tags."""
    spelt = Spelt(Vocabulary(["a", "b"]))
    model = Tagger(1, 6, 5, 3, cell="gru", crf=crf, embedding=SpeltEmbedding(len(spelt), 6)).eval()
    rows = [Tagged(["a", "b", "cd", "a"], ["O", "B-X", "I-X", "O"]), Tagged(["b", "ef"], ["B-X", "O"])]
    coded = Coded.of(rows, spelt, ["B-X", "I-X", "O"])
    words, lengths, tags = coded.rows([0, 1])
    assert words.shape[:2] == tags.shape == (2, 4)
    together = model.loss(words, tags, lengths).item() * 6
    alone = [model.loss(w[None], t[None]).item() * len(t) for w, t in zip(coded.words, coded.tags, strict=True)]
    assert together == pytest.approx(sum(alone), rel=1e-4)
    assert model.decode(words, lengths) == [model.decode(w[None])[0] for w in coded.words]
    with pytest.raises(ValueError, match=r"tags: got shape \(2, 3\), expected \(2, 4\), as tokens"):
        model.loss(words, tags[:, :3], lengths)


def test_texts_become_words_and_sentences():
    assert WORD.findall("Jean-Luc didn't, in St. John's!") == [
        "Jean-Luc", "didn't", ",", "in", "St", ".", "John's", "!",
    ]  # fmt: skip
    assert SENTENCE.split("One ended. Two 1.5 ended!\nthree") == ["One ended.", "Two 1.5 ended!", "three"]


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "wikigold").is_dir(), reason="RNNFAST_DATA names no folder with wikigold/")
def test_entities_of_real_articles(monkeypatch):
    monkeypatch.undo()
    judged = Ner().run().data["judged"]
    for name in (WITHOUT, WITH):
        assert judged[name]["F1"] > 2 * judged["words by heart"]["F1"]
