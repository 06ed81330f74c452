"""Translation: pairs of sentences read and split, pieces, metrics, a small language that is learnt."""

import itertools
import json
import os
import random
import zipfile
from pathlib import Path

import pytest
import torch
from published import looks_right, publish

from rnnfast.__main__ import main
from rnnfast._program import UserError
from rnnfast.models import Seq2Seq
from rnnfast.recipes.applications import pairs, translate
from rnnfast.recipes.applications.pairs import END, START, Pieces, Translated, tidy
from rnnfast.recipes.applications.translate import MEMORY, WITH, WITHOUT, Translate, TranslateTask
from rnnfast.recipes.data import sha256
from rnnfast.recipes.sets import SETS, DataSet

pytest.importorskip("accelerate", reason="training needs accelerate")
pytest.importorskip("matplotlib", reason="figures need matplotlib")
pytest.importorskip("sacrebleu", reason="translations are judged by sacrebleu")
pytest.importorskip("tokenizers", reason="pieces are found by tokenizers")
pytest.importorskip("sklearn", reason="the translation memory needs scikit-learn")
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")

REAL = Path(os.environ.get("RNNFAST_DATA", "/nowhere"))
WHO = {"the man": "l'homme", "the woman": "la femme", "Tom": "Tom", "my cat": "mon chat"}
DOES = {"sees": "voit", "likes": "aime", "wants": "veut", "finds": "trouve"}
WHAT = {"the red house": "la maison rouge", "a dog": "un chien", "bread": "du pain", "nothing": "rien"}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def small_language():
    """All of its sentences, with their translations."""
    for (a, x), (b, y), (c, z) in itertools.product(WHO.items(), DOES.items(), WHAT.items()):
        yield f"{a} {b} {c}.", f"{x} {y} {z}."
        yield f"does {a} {b} {c}?", f"est-ce que {x} {y} {z} ?"


@pytest.fixture
def sentences(tmp_path):
    """A file of a small language."""
    file = tmp_path / "pairs.tsv"
    file.write_text("\n".join("\t".join(pair) for pair in small_language()) + "\n", encoding="utf-8")
    return file


SMALL = dict(
    pieces=300, hidden_size=32, embedding_size=16, epochs=30, batch_size=16, rate=0.02, smoothing=0.0, hide=0.0
)


def test_a_small_language_is_learnt(sentences, tmp_path, capsys):
    result = Translate(text=sentences, output=tmp_path / "out", **SMALL).run()
    assert set(result.data["judged"]) == {MEMORY, WITHOUT, WITH}
    assert result.data["judged"][WITH]["BLEU"] > 90
    assert result.data["sentences"] == [124, 1, 3]
    assert set(result.figures) == {"lengths", "attention"}
    assert looks_right(result)

    text = "the woman finds a dog.\n\n does  Tom like bread?\n"
    answer = ["predict", "translate", text, "--checkpoint", str(tmp_path / "out" / "model.pt")]
    capsys.readouterr()
    assert main(answer) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "la femme trouve un chien."
    assert second.startswith("est-ce que Tom")
    for options in ([], ["--no-attention"], ["--beam", "1"]):
        assert main([*answer, *options, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["sentences"]
        assert [row["source"] for row in found] == ["the woman finds a dog.", "does Tom like bread?"]
        assert (found[0]["translation"] == first) == ("--no-attention" not in options)
    assert main([*answer, "--output", str(tmp_path / "kept")]) == 0
    assert (tmp_path / "kept" / "attention.png").stat().st_size > 10_000


def test_the_other_direction(sentences):
    found = Translate(text=sentences).read()
    assert found[0] == ("the man sees the red house.", "l'homme voit la maison rouge.")
    turned = Translate(text=sentences, reverse=True).read()
    assert turned == [(target, source) for source, target in found]


def test_the_published_archive(monkeypatch, tmp_path):
    folder = publish(monkeypatch, tmp_path / "data", "eng_fra", {})
    with zipfile.ZipFile(folder / "eng_fra" / pairs.ZIP, "w") as archive:
        archive.writestr("_about.txt", "about it")
        archive.writestr(pairs.MEMBER, "Go.\tVa\u202f!\nGo.\tMarche.\n")
    sums = {pairs.ZIP: sha256(folder / "eng_fra" / pairs.ZIP)}
    monkeypatch.setitem(SETS, "eng_fra", DataSet("a/b", "0" * 40, "", "ours", sums))
    assert Translate(data=folder).read() == [("Go.", "Va !"), ("Go.", "Marche.")]


@pytest.mark.parametrize("content", ["no archive", "other member", "latin"])
def test_an_archive_that_is_none(content, tmp_path):
    file = tmp_path / "a.zip"
    if content == "no archive":
        file.write_text("Go.\tVa !")
    else:
        with zipfile.ZipFile(file, "w") as archive:
            name = "other.txt" if content == "other member" else pairs.MEMBER
            archive.writestr(name, "Été\tSummer".encode("latin-1"))
    with pytest.raises(UserError, match=r"data: .*a.zip holds no fra.txt in UTF-8") as error:
        pairs.published(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Go.\tVa !\nGo.\n", "line 2: got 'Go.', expected a sentence, a tab, another"),
        (b"Go.\tVa !\n\n\t!\n", r"line 3: got '\\t!', expected"),
        (b"\n \n", "is empty"),
        (b"Go.\tVa!\n", r"got 1 different sentences, expected some more to hold some out"),
        ("Été\tSummer\n".encode("latin-1"), "is not UTF-8"),
        (None, "cannot read .*No such file"),
    ],
)
def test_a_file_that_is_none(content, message, tmp_path, capsys):
    file = tmp_path / "a.tsv"
    if content is not None:
        file.write_bytes(content)
    assert main(["train", "translate", "--text", str(file), "--output", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("rnnfast train translate: --text: ")
    assert err.count("\n") == 1
    with pytest.raises(UserError, match=f"--text: .*{message}"):
        pairs.split(pairs.read(file), 0)


def test_one_spelling():
    assert tidy(" Il\u00a0n\u2019a\u202fpas\u00ad  vu\u200b l'e\u0301te\u0301 ") == "Il n'a pas vu l'été"


def test_what_stands_behind_a_second_tab_is_left_out():
    assert pairs.parse("Go.\tVa !\tCC-BY 2.0\n", "it") == [("Go.", "Va !")]


def test_no_sentence_is_on_two_sides():
    draw = random.Random(0)
    some = [(f"s{draw.randrange(300)}", f"t{draw.randrange(500)}") for _ in range(900)]
    train, dev, test = pairs.split(some, 3)
    sources = [set(part.sources) for part in (train, dev, test)]
    targets = [{target for row in part.targets for target in row} for part in (train, dev, test)]
    assert len(set.union(*sources)) > 270
    for a, b in itertools.combinations(sources, 2):
        assert not a & b
    assert not targets[0] & (targets[1] | targets[2])
    assert [len(part.sources) for part in (dev, test)] == [3, 6]
    assert pairs.split(some, 3) == (train, dev, test)
    assert pairs.split(some, 4)[2] != test
    for part in (train, dev, test):
        for source, row in zip(part.sources, part.targets, strict=True):
            assert {(source, target) for target in row} <= set(some)


def test_sources_have_all_their_translations():
    found = Translated.of([("a", "x"), ("b", "y"), ("a", "z"), ("a", "x")])
    assert found == Translated(["a", "b"], [["x", "z"], ["y"]])


def test_pieces_come_back():
    texts = [f"{a}\n{b}" for a, b in small_language()]
    pieces = Pieces.learnt(texts, 300)
    assert 100 < len(pieces) <= 300
    for text in ("the woman finds a dog.", "est-ce que Tom voit rien ?", "l'homme aime la femme."):
        numbers = pieces.encode(text)
        assert min(numbers) > END
        assert pieces.decode(numbers) == text
        assert "".join(pieces.shown(numbers)).strip() == text
    again = Pieces.parse(pieces.text())
    assert again.encode(text) == pieces.encode(text)
    assert pairs.many(pieces, [text, "a dog"]) == [pieces.encode(text), pieces.encode("a dog")]
    assert pieces.decode([START, *pieces.encode("a dog"), END]) == "a dog"
    assert 1 in pieces.encode("a zebra")  # which it has no letter for


def task(**options):
    train = Translated(["a b", "b", "a a a", "b a"], [["x", "y"], ["y"], ["x x x"], ["y x", "x"]])
    sides = Pieces.learnt(train.sources, 300), Pieces.learnt(["x y x", "y x"], 300)
    model = Seq2Seq(len(sides[0]), len(sides[1]), 4, 6)
    return TranslateTask(
        model, train, train, sides, **{"batch_size": 2, "seed": 1, "smoothing": 0.0, "hidden": 0.0, **options}
    )


def test_each_translation_has_its_turn():
    made = task()
    seen = set()
    for step in range(60):
        source, lengths, target, given = made.batch(step)
        again = made.batch(step)
        assert all(bool((a == b).all()) for a, b in zip((source, lengths, target, given), again, strict=True))
        assert bool((given == target).all())
        for row, n, t in zip(source.tolist(), lengths.tolist(), target.tolist(), strict=True):
            t = [number for number in t if number]
            assert (t[0], t[-1]) == (START, END)
            assert 0 not in row[:n]
            assert not any(row[n:])
            seen.add((made.sides[0].decode(row[:n]), made.sides[1].decode(t[1:-1])))
    assert seen == {("a b", "x"), ("a b", "y"), ("b", "y"), ("a a a", "x x x"), ("b a", "y x"), ("b a", "x")}


def test_the_loss_is_that_of_pieces_and_ends():
    made = task()
    source, lengths, target, given = made.batch(0)
    total, count = made.loss(made.model, (source, lengths, target, given))
    expected, pieces = 0.0, 0
    for row in range(len(source)):
        wanted = target[row][target[row] != 0]
        logits = made.model(source[row : row + 1, : lengths[row]], wanted[None, :-1])[0]
        expected -= logits.log_softmax(1).gather(1, wanted[1:, None]).sum().item()
        pieces += len(wanted) - 1
    assert count == pieces
    assert total.item() == pytest.approx(expected, rel=1e-5)


def test_pieces_are_hidden_and_asked_for():
    made = task(hidden=0.5)
    plain, hidden = task(), []
    for step in range(40):
        (source, _, target, given), (true, _, wanted, _) = made.batch(step), plain.batch(step)
        assert bool((target == wanted).all())
        for tokens, before in ((source, true), (given, target)):
            changed = tokens != before
            assert bool((tokens[changed] == 1).all())
            assert not bool((changed & ((before == 0) | (before == START))).any())
            hidden.append(changed.sum() / ((before != 0) & (before != START)).sum())
    assert 0.4 < float(torch.stack(hidden).mean()) < 0.6


def test_metrics_know_all_right_answers():
    right = ["the cat is on the mat .", "there is a cat on the mat ."]
    assert translate.bleu([right[1]], [right]) == pytest.approx({"BLEU": 100, "chrF": 100})
    assert translate.bleu([right[1]], [right[:1]])["BLEU"] < 60
    found = translate.bleu(["a b c d e", "no"], [["a b c d e"], ["other", "no", "more"]])
    assert found["BLEU"] == pytest.approx(100)


def test_the_memory_answers_with_what_is_most_alike():
    train = Translated(["I see a dog.", "You like bread."], [["Je vois un chien."], ["Vous aimez le pain.", "x"]])
    assert translate.from_memory(train, ["We like bread.", "A dog."]) == [
        "Vous aimez le pain.",
        "Je vois un chien.",
    ]


def test_a_checkpoint_with_other_pieces(sentences, tmp_path, capsys):
    Translate(text=sentences, output=tmp_path, **{**SMALL, "epochs": 1}).run()
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    content["vocabulary"][0] = "{}"
    torch.save(content, tmp_path / "other.pt")
    capsys.readouterr()
    assert main(["predict", "translate", "bread", "--checkpoint", str(tmp_path / "other.pt")]) == 2
    err = capsys.readouterr().err
    assert err.endswith("other.pt is of another version of rnnfast, or damaged\n")
    assert err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "eng_fra").is_dir(), reason="RNNFAST_DATA names no folder with eng_fra/")
def test_real_sentences(tmp_path):
    result = Translate(output=tmp_path, hidden_size=96, epochs=1).run()
    assert result.data["sentences"] == [95399, 987, 1973]
    losses = [result.data["curves"][name][-1]["held out"] for name in (WITHOUT, WITH)]
    assert max(losses) < 3.5
    assert losses[1] < losses[0]
