"""The exercises that train: on tiny data of our own, on the real data for a moment, and (slow) as they are."""

import datetime
import math
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from published import looks_right, publish
from torch import nn

from rnnfast._program import UserError
from rnnfast.recipes import classification, data
from rnnfast.recipes.classification import ClassifierTask, Labelled
from rnnfast.recipes.data import Found
from rnnfast.recipes.exercises import EXERCISES, calendar, dates, names
from rnnfast.recipes.exercises.adding import Adding, AddingTask
from rnnfast.recipes.exercises.hidden_states import HiddenStates, accuracy_after, take_states
from rnnfast.recipes.exercises.name_lists import Names, ceiling, labelled, majority, ngrams
from rnnfast.recipes.exercises.name_model import NameModel, Ngrams
from rnnfast.recipes.exercises.names import NameClassification
from rnnfast.recipes.exercises.sentences import Sentences
from rnnfast.recipes.recipe import load_model
from rnnfast.recipes.vocabulary import UNKNOWN, Vocabulary, padded

pytest.importorskip("accelerate", reason="training needs accelerate")
pytest.importorskip("sklearn", reason="the scores are scikit-learn's")
pytest.importorskip("matplotlib", reason="figures need matplotlib")
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")

REAL = Path(data.os.environ.get("RNNFAST_DATA", "/nowhere"))
real_data = pytest.mark.skipif(not (REAL / "names").is_dir(), reason="RNNFAST_DATA names no folder with names/")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


# Names: invented ones, whose ends tell the language.
STEMS = [
    "al",
    "ber",
    "cor",
    "dan",
    "er",
    "far",
    "gor",
    "hel",
    "ir",
    "jan",
    "kar",
    "lor",
    "mar",
    "nor",
    "os",
    "pel",
]
ENDINGS = {"East": ["ova", "in"], "North": ["sen", "dóttir"], "South": ["ini", "ello"]}


@pytest.fixture
def tiny_names(monkeypatch, tmp_path):
    files = {
        f"{language}.txt": [
            f"{stem}{middle}{end}".title() for stem in STEMS for middle in ("", "a") for end in ends
        ]
        for language, ends in ENDINGS.items()
    }
    files["East.txt"] += ["Romano", "Romano"]
    files["South.txt"] += ["Romano"]
    return publish(monkeypatch, tmp_path / "data", "names", files)


def test_names_learns_what_ends_tell(tiny_names, tmp_path):
    program = NameClassification(
        data=tiny_names,
        output=tmp_path / "out",
        models=2,
        epochs=12,
        rate=0.02,
        dropout=0.1,
        hidden_size=12,
        embedding_size=12,
        batch_size=16,
    )
    result = program.run()
    compared = result.data["compared"]
    assert list(compared) == [
        "majority class",
        "n-grams, logistic regression",
        "n-grams, classes balanced",
        "bidirectional gru",
        "mean of 2 of these",
    ]
    assert compared["mean of 2 of these"]["accuracy"] > 0.9
    assert compared["majority class"]["accuracy"] < 0.5
    assert result.data["ceiling"] in (1.0, pytest.approx(1 - 1 / sum(map(sum, result.data["confusion"]))))
    assert looks_right(result)
    assert "East" in result.summary

    content = load_model(tmp_path / "out" / "model.pt", "names")
    vocabulary = Vocabulary(content["vocabulary"]["characters"])
    settings = content["settings"]
    models = []
    for weights in content["weights"]:
        model = NameModel(
            len(vocabulary) - len(["<padding>", "<unknown>"]) + 2,
            len(content["vocabulary"]["languages"]),
            embedding_size=settings["embedding_size"],
            hidden_size=settings["hidden_size"],
            cell=settings["cell"],
            dropout=0.0,
            layers="torch",
        )
        model.load_state_dict(weights)
        models.append(model.eval())
    read = Names.read(data.find("names", tiny_names), 0)
    held_out = labelled(read.held_out, vocabulary)
    again = classification.predict(models, held_out).argmax(1)
    assert classification.scores(held_out.classes, again) == pytest.approx(compared["mean of 2 of these"])
    program.finish()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.pt"]


def test_names_are_split_by_name(tiny_names):
    found = data.find("names", tiny_names)
    with_romano = set()
    for seed in range(12):
        read = Names.read(found, seed)
        assert read.languages == ["East", "North", "South"]
        train, held_out = ({name for name, _ in pairs} for pairs in (read.train, read.held_out))
        assert not train & held_out
        assert len(held_out) == int(0.2 * len(train | held_out))
        everywhere = Counter(read.train + read.held_out)
        assert everywhere["Romano", 0] == 2
        assert everywhere["Romano", 2] == 1
        assert sum(everywhere.values()) == sum(len(found.lines(file)) for file in found.files)
        with_romano.add("Romano" in held_out)
        best = ceiling(read.held_out)
        assert best == (1 - 1 / len(read.held_out) if "Romano" in held_out else 1)
    assert with_romano == {True, False}
    assert Names.read(found, 3) == Names.read(found, 3) != Names.read(found, 4)


def test_too_few_names(monkeypatch, tmp_path):
    folder = publish(monkeypatch, tmp_path, "names", {"A.txt": ["x"], "B.txt": ["y"]})
    with pytest.raises(UserError, match="data: 2 different names, expected at least 5"):
        Names.read(data.find("names", folder), 0)


def test_baselines(tiny_names):
    read = Names.read(data.find("names", tiny_names), 0)
    truth = torch.tensor([language for _, language in read.held_out])
    assert (ngrams(read, balanced=False) == truth).float().mean() > 0.9
    assert (ngrams(read, balanced=True) == truth).float().mean() > 0.9
    most = Counter(language for _, language in read.train).most_common(1)[0][0]
    assert majority(read).tolist() == [most] * len(truth)


def test_rare_classes_count_more():
    classes = torch.tensor([0] * 80 + [1] * 15 + [2] * 5)
    found = names.weights(classes)
    assert found[0] < found[1] < found[2]
    assert found[classes].mean().item() == pytest.approx(1)
    assert (found[2] / found[0]).item() == pytest.approx((80 / 5) ** names.BALANCE)


def test_confusion_counts():
    truth, answers = torch.randint(0, 4, (2, 50))
    pairs = Counter(zip(truth.tolist(), answers.tolist(), strict=True))
    assert names.counts(truth, answers, 4).tolist() == [[pairs[i, j] for j in range(4)] for i in range(4)]


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@torch.no_grad()
def test_name_model_is_what_its_formula_says(cell):
    options = dict(embedding_size=5, hidden_size=4, cell=cell, dropout=0.0)
    model = NameModel(9, 3, layers="rnnfast", **options).double()
    plain = NameModel(9, 3, layers="torch", **options).double()
    nn.init.normal_(model.ngrams.vectors.weight)
    plain.load_state_dict(model.state_dict())
    rows = [[2, 3, 4, 2], [2, 7, 2], [2, 5, 5, 6, 8, 2]]
    tokens, lengths = padded(rows)
    logits, cost = model(tokens, lengths, tokens)
    costs = []
    for row, found in zip(rows, logits, strict=True):
        x = plain.embedding(torch.tensor([row]))
        states = plain.rnn(x)[0]
        spoken = plain.ngrams.vectors(plain.ngrams.rows(torch.tensor([row])))[0].sum((0, 1)) / len(row) ** 0.5
        expected = plain.readout(states[0].amax(0)) + spoken
        torch.testing.assert_close(found, expected)
        after, before = states[0].split(4, 1)
        for t in range(len(row) - 1):
            costs.append(
                (
                    F.cross_entropy(plain.after(after[t]), torch.tensor(row[t + 1])),
                    F.cross_entropy(plain.before(before[t + 1]), torch.tensor(row[t])),
                )
            )
    torch.testing.assert_close(cost, torch.tensor(costs, dtype=torch.float64).mean(0).sum())
    tokens = torch.cat([tokens, torch.randint(0, 9, (3, 2)) * 0], 1)
    torch.testing.assert_close(model(tokens, lengths), logits)


def test_ngrams_are_told_apart():
    ngrams = Ngrams(3)
    one, other = ngrams.rows(torch.tensor([[5, 6, 7, 8, 9]]))[0], ngrams.rows(torch.tensor([[4, 6, 7, 8, 9]]))[0]
    # An n-gram that ends at a token differs if it is long enough to reach the first character.
    assert (one == other).tolist() == [[t - k > 0 for k in range(4)] for t in range(5)]
    letters = torch.randint(0, 60, (500, 8))
    rows, known = ngrams.rows(letters), {}
    for text, found in zip(letters.tolist(), rows.tolist(), strict=True):
        for t in range(8):
            for k in range(4):
                known[tuple(([0] * 3 + text)[t + 3 - k : t + 4]), k] = found[t][k]
    assert len(set(known.values())) > 0.85 * len(known)  # few meet in a row by chance


@real_data
def test_names_on_the_real_data():
    result = NameClassification(models=1, epochs=1, hidden_size=32).run()
    compared = result.data["compared"]
    assert 0.4 < compared["majority class"]["accuracy"] < 0.55
    assert compared["n-grams, logistic regression"]["accuracy"] > 0.75
    assert compared["bidirectional gru"]["accuracy"] > compared["majority class"]["accuracy"] + 0.1
    assert 0.95 < result.data["ceiling"] < 0.99
    assert len(result.data["languages"]) == 18


@pytest.mark.slow
@real_data
def test_names_beats_ngrams():
    """For a split of each run's own."""
    result = NameClassification(seed=random.randrange(1000)).run()
    *_, last = result.data["compared"].values()
    for metric in ("accuracy", "macro-F1"):
        assert last[metric] > result.data["compared"]["n-grams, logistic regression"][metric]
    assert last["accuracy"] < result.data["ceiling"]


# Dates


def test_dates_as_people_write_them():
    pytest.importorskip("babel", reason="the calendar is Babel's")
    found = calendar.Calendar(("en_US", "de_DE"))
    day = datetime.date(2023, 1, 15)
    written = {
        form: found.write(day, *form) for form in [("en_US", s) for s in calendar.STYLES] + [("de_DE", "long")]
    }
    assert written["en_US", "short"] == "1/15/23"
    assert written["en_US", "medium"] == "Jan 15, 2023"
    assert written["en_US", "long"] == "January 15, 2023"
    assert written["en_US", "full"] == "Sunday, January 15, 2023"
    assert written["de_DE", "long"] == "15. Januar 2023"
    assert found.decode_iso(found.encode_iso(day)[1:-1]) == "2023-01-15"


def test_the_calendar_knows_all_that_is_written_and_no_form_means_two_days():
    pytest.importorskip("babel", reason="the calendar is Babel's")
    program = dates.Dates()
    found = calendar.Calendar(program.locales)
    train, held_out = calendar.split(0)
    assert len(train) + len(held_out) == 36525
    assert not set(train) & set(held_out)
    assert held_out[0] == calendar.EXAMPLE == datetime.date(2023, 1, 15)
    assert calendar.split(0) == (train, held_out) != calendar.split(1)
    some = random.sample(train + held_out, 150)
    for locale in program.locales:
        for style in calendar.STYLES:
            rows = [found.encode(found.write(day, locale, style), locale) for day in some]
            assert not any(UNKNOWN in row for row in rows)
            assert len(set(map(tuple, rows))) == len(some)


def test_dates_trains_on_the_days_it_may():
    pytest.importorskip("babel", reason="the calendar is Babel's")
    program = dates.Dates(locales=("en_GB", "fr_FR"), hidden_size=8)
    found = calendar.Calendar(program.locales)
    train, held_out = calendar.split(0)
    task = dates.DatesTask(found, program.model(found), train[:3], held_out, 20, 0)
    source, lengths, target = task.batch(4)
    assert all(torch.equal(a, b) for a, b in zip(task.batch(4), (source, lengths, target), strict=True))
    assert not torch.equal(task.batch(5)[2], target)
    days = {found.decode_iso(row[1:-1]) for row in target.tolist()}
    assert days <= {day.isoformat() for day in train[:3]}
    for row, length in zip(source.tolist(), lengths.tolist(), strict=True):
        assert found.source.decode(row[:1])[0] in ("<en_GB>", "<fr_FR>")
        assert not any(row[length:])


def test_dates_from_one_country(tmp_path):
    pytest.importorskip("babel", reason="the calendar is Babel's")
    program = dates.Dates(
        locales=("en_US",), hidden_size=32, embedding_size=8, steps=60, output=tmp_path, rate=0.01
    )
    result = program.run()
    assert result.data["curve"][0]["step"] == 7
    assert set(result.data["exact"]) == {"en_US"}
    assert 0 <= result.data["mean"] <= 1
    assert "January 15, 2023" in result.summary
    assert set(result.figures) == {"exact", "attention"}
    assert looks_right(result)
    assert load_model(tmp_path / "model.pt", "dates")["vocabulary"]["source"][0] == "<en_US>"


def test_a_country_that_is_none():
    pytest.importorskip("babel", reason="the calendar is Babel's")
    with pytest.raises(UserError, match="--locales: got xx_YY, expected one of Babel's, such as en_US or fr"):
        dates.Dates(locales=("xx_YY",)).run()


@pytest.mark.slow
def test_dates_are_converted():
    result = dates.Dates(seed=random.randrange(1000)).run()
    for style in ("long", "medium"):
        assert result.data["exact"]["en_US"][style] >= 0.99
        assert result.data["exact"]["en_GB"][style] >= 0.99
    assert result.data["mean"] > 0.98


# The adding problem


def test_adding_learns_short_sequences(tmp_path):
    program = Adding(lengths=(2, 3), hidden_size=16, steps=250, rate=0.02, output=tmp_path)
    result = program.run()
    for row in result.data["lengths"]:
        assert row["mse"] < row["baseline"] / 4
        assert row["baseline"] == pytest.approx(1 / 6)
        assert 0 <= row["right"] <= 1
        assert len(row["curve"]) == 10
    assert looks_right(result)
    assert result.summary.count("answer") == 4
    assert len(load_model(tmp_path / "model.pt", "adding")["weights"]) == 2


def test_adding_measures_what_it_says():
    class Blind(nn.Module):
        def forward(self, x):
            return torch.ones(*x.shape[:2], 1) + 0 * self.weight, None

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

    task = AddingTask(
        Adding.__module__ and __import__("rnnfast.lab.tasks", fromlist=["x"]).Adding(7), Blind(), 64, 0
    )
    found = task.evaluate()
    assert found["mse"] == pytest.approx(1 / 6, rel=0.15)
    inputs, sums = task.problem.held_out()
    assert found["right"] == pytest.approx(((sums - 1).abs() < 0.04).float().mean().item())
    total, count = task.loss(task.model, (inputs, sums))
    assert total.item() / count == pytest.approx(found["mse"], rel=1e-5)


def test_a_cell_that_is_none():
    with pytest.raises(UserError, match="--cell: got elman, expected one of rnn, lstm, gru"):
        Adding(cell="elman")


@pytest.mark.slow
def test_adding_is_solved():
    for row in Adding(seed=random.randrange(1000)).run().data["lengths"]:
        assert row["mse"] < 0.01, row["length"]


# Hidden states of a model of sentiment: sentences of ours, which one word decides.
GOOD, BAD = ["lovely", "bright", "tender", "clever"], ["dull", "stale", "clumsy", "weak"]
NOUNS = ["film", "story", "song", "cast", "plot"]


@pytest.fixture
def tiny_sentences(monkeypatch, tmp_path):
    def sentences(count):
        lines = []
        for i in range(count):
            words = random.Random(count + i).choices(NOUNS, k=4 + i % 4)
            words.insert(i % 4, random.Random(i).choice(GOOD if i % 2 else BAD))
            lines.append(f"{i % 2} the {' '.join(words)} .")
        return lines

    files = {
        "stsa.binary.train": sentences(160),
        "stsa.binary.dev": sentences(20),
        "stsa.binary.test": sentences(40),
    }
    return publish(monkeypatch, tmp_path / "data", "sst", files)


def test_hidden_states_are_taken_and_drawn(tiny_sentences, tmp_path):
    program = HiddenStates(
        data=tiny_sentences,
        output=tmp_path / "out",
        epochs=30,
        hidden_size=8,
        embedding_size=8,
        rate=0.03,
        hide=0.05,
        sentences=25,
    )
    result = program.run()
    assert result.data["accuracy"] > 0.9
    after = result.data["accuracy after words"]
    assert after[16] == result.data["accuracy"]
    assert after[1] == 0.5
    assert len(result.data["labels"]) == len(result.data["positions"]) == len(result.data["points"]["pca"])
    assert set(result.figures) == {"pca", "tsne"}
    assert looks_right(result)
    assert "positive: the " in result.summary


def test_states_are_those_of_each_word(tiny_sentences):
    read = Sentences.read(data.find("sst", tiny_sentences), "test")
    vocabulary = read.vocabulary(1)
    model = HiddenStates().train.__globals__["SequenceClassifier"](len(vocabulary), 4, 6, 2, cell="lstm").eval()
    some = read.labelled(vocabulary).rows(torch.arange(5))
    states, labels, positions = take_states(model, *some)
    row = 0
    for words, sentiment in zip(read.words[:5], read.classes, strict=False):
        alone = model.states(torch.tensor([vocabulary.encode(words)]))[0]
        torch.testing.assert_close(states[row : row + len(words)], alone)
        assert labels[row : row + len(words)].tolist() == [sentiment] * len(words)
        assert positions[row : row + len(words)].tolist() == list(range(len(words)))
        row += len(words)
    assert row == len(states)
    whole = read.labelled(vocabulary)
    right = classification.predict([model], whole).argmax(1) == whole.classes
    assert accuracy_after(model, whole, 100) == pytest.approx(right.float().mean().item())


@pytest.mark.parametrize("line", ["2 a film", "fine", "1"])
def test_a_line_that_is_no_sentence(line, tiny_sentences):
    found = data.find("sst", tiny_sentences)
    path = found.files["stsa.binary.dev"]
    path.write_text(f"1 good\n{line}\n")
    with pytest.raises(
        UserError, match=rf"data: .*stsa.binary.dev, line 2: got '{line}', expected 0 or 1 and words"
    ):
        Sentences.read(found, "dev")


@real_data
def test_hidden_states_on_the_real_data():
    result = HiddenStates(epochs=1, hidden_size=16, sentences=20).run()
    assert 0.5 < result.data["accuracy"] < 0.9


# What they share


def test_a_classifier_task_hides_words_in_training_only():
    rows = [[2 + (i + j) % 7 for j in range(3 + i % 5)] for i in range(60)]
    train = Labelled.of(rows, [i % 2 for i in range(60)])
    task = ClassifierTask(nn.Linear(1, 1), train, train, batch_size=20, seed=0, hidden=0.4)
    tokens, lengths, classes = task.batch(1)
    assert torch.equal(task.batch(1)[0], tokens)
    expected = train.rows(task.order[1])
    hidden = tokens != expected[0]
    assert torch.equal(lengths, expected[1])
    assert torch.equal(classes, expected[2])
    assert (tokens[hidden] == UNKNOWN).all()
    present = torch.arange(tokens.size(1)) < lengths.unsqueeze(1)
    assert not hidden[~present].any()
    assert 0.2 < hidden[present].float().mean() < 0.6


def test_the_loss_of_a_classifier_is_weighted():
    logits, classes = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    task = ClassifierTask(nn.Linear(1, 1), *[Labelled.of([[2]] * 6, classes.tolist())] * 2, batch_size=2, seed=0)
    task.weights = torch.tensor([1.0, 2.0, 0.5])
    total, count = task.loss(lambda *batch: logits, (None, None, classes))
    expected = [
        -w * row.log_softmax(0)[c] for row, c, w in zip(logits, classes, task.weights[classes], strict=True)
    ]
    assert count == 6
    assert total.item() == pytest.approx(sum(expected).item(), rel=1e-5)


def test_scores_against_counting():
    truth, found = torch.randint(0, 3, (2, 40))
    scores = classification.scores(truth, found)
    f1 = []
    for c in range(3):
        both, either = int(((truth == c) & (found == c)).sum()), int((truth == c).sum() + (found == c).sum())
        f1.append(2 * both / either)
    assert scores["macro-F1"] == pytest.approx(sum(f1) / 3)
    assert scores["accuracy"] == pytest.approx(sum(a == b for a, b in zip(truth, found, strict=True)) / 40)


def test_vocabulary():
    vocabulary = Vocabulary(["b", "a"])
    assert vocabulary.encode("abz") == [3, 2, UNKNOWN]
    assert vocabulary.decode([3, 2, 1, 0]) == ["a", "b", "<unknown>", "<padding>"]
    assert len(vocabulary) == 4
    tokens, lengths = padded([[2], [3, 2, 2]])
    assert tokens.tolist() == [[2, 0, 0], [3, 2, 2]]
    assert lengths.tolist() == [1, 3]


def test_each_exercise_of_the_text_is_there():
    assert list(EXERCISES) == ["own-rnn", "adding", "names", "dates", "hidden-states"]
    assert all(math.isfinite(program().seed) for program in EXERCISES.values())


def test_found_lines_are_stripped(tmp_path):
    (tmp_path / "a").write_text("  x \n\n y\n")
    assert Found({"a": tmp_path / "a"}).lines("a") == ["x", "y"]
