"""Captions: scenes and their sentences, a user's images, and squares of our own that are learnt."""

import itertools
import json
import random
from pathlib import Path

import pytest
import torch
from published import looks_right

from rnnfast.__main__ import main
from rnnfast.recipes.applications import caption, images, scenes
from rnnfast.recipes.applications.caption import OWN, SEEN, UNSEEN, Caption, CaptionTask, Coded, nearest
from rnnfast.recipes.applications.captioner import END, START, Captioner, Eye, tell
from rnnfast.recipes.applications.images import Captioned, read_captions, read_image, scores
from rnnfast.recipes.applications.scenes import Meetings, Scene
from rnnfast.recipes.vocabulary import PADDING, Vocabulary

pytest.importorskip("accelerate", reason="training needs accelerate")
pytest.importorskip("matplotlib", reason="figures need matplotlib")
pytest.importorskip("sacrebleu", reason="BLEU is sacrebleu's")
pytest.importorskip("sklearn", reason="digits are scikit-learn's")
pillow = pytest.importorskip("PIL.Image", reason="images are read by pillow")
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")

COLORS = {"red": (230, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 230)}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def square(color, side, left, draw):
    """A picture of 20 x 16 pixels with a square on one half."""
    image = pillow.new("RGB", (20, 16), (draw.randrange(40),) * 3)
    x, y = draw.randrange(0, 11 - side), draw.randrange(0, 17 - side)
    image.paste(COLORS[color], (x + (0 if left else 10), y, x + side + (0 if left else 10), y + side))
    return image


@pytest.fixture
def squares(tmp_path):
    """Pictures of squares in a folder, and the file with their captions."""
    draw, lines = random.Random(0), ["file,caption"]
    (tmp_path / "squares" / "more").mkdir(parents=True)
    for i, (color, side, left) in enumerate(itertools.product(COLORS, (3, 8), (True, False))):
        for j in range(12):
            name = f"{'more/' if j % 2 else ''}{i}-{j}.{'png' if j % 3 else 'bmp'}"
            square(color, side, left, draw).save(tmp_path / "squares" / name)
            size = "" if side == 3 else "large, "
            lines.append(f'{name},"A {size}{color} square on the {"left" if left else "right"}."')
    (tmp_path / "squares.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "squares", tmp_path / "squares.csv"


SMALL = dict(dropout=0, size=16, hidden_size=32, embedding_size=12, batch_size=16, rate=0.01)


def test_squares_are_learnt_and_told(squares, tmp_path, capsys):
    folder, file = squares
    result = Caption(images=folder, captions=file, output=tmp_path / "out", epochs=40, **SMALL).run()
    judged = result.data["judged"]
    assert list(judged) == [OWN]
    assert list(judged[OWN]) == ["most frequent caption", "caption of the nearest image", "lstm"]
    assert judged[OWN]["lstm"]["exact"] > 0.85
    assert judged[OWN]["lstm"]["BLEU"] > 90
    assert judged[OWN]["most frequent caption"]["exact"] < 0.5
    assert looks_right(result)
    assert not result.files

    new = tmp_path / "new.png"
    square("blue", 8, False, random.Random(7)).resize((200, 160)).save(new)
    answer = ["predict", "caption", str(new), "--checkpoint", str(tmp_path / "out" / "model.pt")]
    capsys.readouterr()
    assert main(answer) == 0
    assert capsys.readouterr().out == "a large , blue square on the right .\n"
    assert main([*answer, "--json", "--beam", "3", "--output", str(tmp_path / "told")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["caption"] == "a large , blue square on the right ."
    assert [each["word"] for each in found["words"]] == found["caption"].split()
    assert all(0 < each["probability"] <= 1 for each in found["words"])
    assert 0.5 < found["probability"] <= 1
    assert {path.name for path in (tmp_path / "told").iterdir()} == {"results.json", "caption.png"}


def test_scenes_are_trained_on_and_written_as_files(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(caption, "HELD_OUT", 12)
    sizes = dict(hidden_size=8, embedding_size=4, epochs=1, batch_size=20)
    result = Caption(scenes=40, attention="none", output=tmp_path / "out", **sizes).run()
    assert list(result.data["judged"]) == [UNSEEN, SEEN]
    for rows in result.data["judged"].values():
        assert list(rows)[-2:] == ["cells by logistic regression, and the grammar", "lstm"]
    assert looks_right(result)
    written = {path.name for path in result.save(tmp_path / "out")}
    assert {"results.json", "captions.png", "curve.png", "scene-1.png", "scene-6.png"} <= written
    first = tmp_path / "out" / "scene-1.png"
    assert size_of(first) == (256, 256)
    test = caption.of_scenes(40, 32, 0).test[UNSEEN]
    assert torch.equal(read_image(first, 32, 1, ""), test.images[0])
    known = {"a", "an", "above", "far", "in", "left", "middle", "of", "on", "right", "the"}
    known |= {*scenes.NOUNS, *scenes.PLURALS}
    answer = ["predict", "caption", str(first), "--checkpoint", str(tmp_path / "out" / "model.pt")]
    capsys.readouterr()
    assert main([*answer, "--output", str(tmp_path / "told")]) == 0
    assert set(capsys.readouterr().out.split()) <= known


# Scenes


SENTENCES = {
    ((0, 0, 3), (0, 1, 7)): "a three left of a seven",
    ((1, 0, 8), (1, 2, 8)): "two eights",
    ((0, 0, 8), (0, 2, 3), (2, 1, 4)): "an eight far left of a three far above a four in the middle",
    ((0, 0, 3), (0, 1, 3), (0, 2, 3), (1, 2, 0)): "three threes above a zero on the right",
    ((0, 1, 6), (1, 0, 6), (2, 0, 6), (2, 1, 9)):
        "a six in the middle above a six on the left above a six left of a nine",
    ((1, 0, 2), (1, 1, 2), (1, 2, 5)): "two twos left of a five",
}  # fmt: skip


@pytest.mark.parametrize("digits", SENTENCES)
def test_what_is_said_of_a_scene(digits):
    assert Scene(digits).caption() == SENTENCES[digits]


def test_no_two_scenes_that_look_different_in_what_is_told_have_the_same_caption():
    """From a caption the digits of each row can be told, and a row's columns up to a shift."""
    seen = {}
    draw = random.Random(0)
    every = frozenset(itertools.combinations(range(10), 2))
    for _ in range(3000):
        found = scenes.scene(draw, every)
        rows = [[d for _, _, d in row] for _, row in itertools.groupby(found.digits, key=lambda digit: digit[0])]
        assert seen.setdefault(found.caption(), rows) == rows


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits_that_never_meet_in_training(seed):
    meet = Meetings.of(seed)
    assert len(meet.train | meet.dev | meet.test) == len(meet.train) + len(meet.dev) + len(meet.test) == 45
    for held_out in (meet.dev, meet.test):
        assert sorted(digit for pair in held_out for digit in pair) == list(range(10))
    draw = random.Random(seed)
    for _ in range(200):
        assert scenes.scene(draw, meet.train).pairs() <= meet.train
        new = scenes.scene(draw, meet.train, meet.test).pairs()
        assert new & meet.test
        assert new <= meet.train | meet.test


def test_no_image_of_a_digit_is_in_two_parts():
    parts = scenes.digit_images(0)
    assert [sum(map(len, part.values())) for part in parts] == [1200, 199, 398]
    flat = [{tuple(image.flatten().tolist()) for found in part.values() for image in found} for part in parts]
    assert len(set.union(*flat)) == sum(map(len, flat)) == 1797
    other = scenes.digit_images(1)
    assert not torch.equal(other[0][0][:5], parts[0][0][:5])


def test_copies_of_digits_are_nearly_them():
    digits = scenes.digit_images(0)[0]
    more = scenes.varied(digits, torch.Generator().manual_seed(0))
    for digit, found in digits.items():
        assert torch.equal(more[digit][: len(found)], found)
        copies = more[digit][len(found) :].unflatten(0, (-1, len(found))).float()
        away = (copies - found).abs().mean((2, 3))
        others = (found.float() - found.float().roll(1, 0)).abs().mean((1, 2))
        assert len(copies) == scenes.COPIES
        assert away.min() > 0
        assert away.mean() < 0.8 * others.mean()


def test_scenes_are_drawn_where_their_digits_are():
    digits = {d: torch.full((1, 8, 8), 100 + d, dtype=torch.uint8) for d in range(10)}
    found, drawn = scenes.scenes(50, digits, Meetings.of(0).train, frozenset(), "0 train")
    again, same = scenes.scenes(50, digits, Meetings.of(0).train, frozenset(), "0 train")
    assert found == again
    assert torch.equal(drawn, same)
    for each, image in zip(found, drawn, strict=True):
        assert (image > 0).sum() == 64 * len(each.digits)
        for row, column, digit in each.digits:
            assert image[10 * row + 6, 10 * column + 6] == 100 + digit


def test_cells_by_regression_and_grammar():
    random_shades = torch.Generator().manual_seed(0)
    digits = {d: torch.randint(0, 256, (1, 8, 8), generator=random_shades).to(torch.uint8) for d in range(10)}
    some = frozenset(itertools.combinations(range(10), 2))
    train, drawn = scenes.scenes(400, digits, some, frozenset(), "a")
    told, none = scenes.by_cells(train, drawn, [drawn[:50], torch.zeros(1, 32, 32, dtype=torch.uint8)])
    assert sum(a == b.caption() for a, b in zip(told, train, strict=False)) > 35
    assert none == [""]


# Files of the user's


def test_captions_are_read(tmp_path):
    file = tmp_path / "a.tsv"
    file.write_text('\ufeffid\tCaption\tfile\n1\tA Dog, "Rex".\ta.png\n\n2\ttwo  dogs\tb.png\n3\tA dog!\ta.png\n')
    assert read_captions(file) == {"a.png": (2, ['a dog , " rex " .', "a dog !"]), "b.png": (4, ["two dogs"])}
    file.write_text("file;caption\na.png;one, two\n")
    assert read_captions(file) == {"a.png": (2, ["one , two"])}


def test_images_are_split_with_all_their_captions(tmp_path):
    lines = ["file,caption"]
    for i in range(30):
        pillow.new("L", (9, 9), i).save(tmp_path / f"{i}.png")
        lines += [f"{i}.png,number {i}", f"{i}.png,{i} it is"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    options = dict(size=8, channels=1)
    parts = images.read(tmp_path, tmp_path / "a.csv", seed=0, **options)
    assert [len(part) for part in parts] == [24, 3, 3]
    names = [int(image[0, 0, 0]) for part in parts for image in part.images]
    assert sorted(names) == list(range(30))
    assert [c for part in parts for c in part.captions] == [[f"number {i}", f"{i} it is"] for i in names]
    assert len(parts[1].rows()) == 6
    other = images.read(tmp_path, tmp_path / "a.csv", seed=1, **options)
    assert [int(image[0, 0, 0]) for part in other for image in part.images] != names


def test_kinds_of_images(tmp_path):
    def read(image, channels=3, size=8, **options):
        image.save(tmp_path / "a.png", **options)
        return read_image(tmp_path / "a.png", size, channels, "INPUT")

    assert read(pillow.new("RGB", (30, 20), (10, 20, 30)))[:, 0, 0].tolist() == [10, 20, 30]
    assert read(pillow.new("RGBA", (8, 8), (10, 20, 30, 0)))[:, 7, 7].tolist() == [255] * 3
    assert read(pillow.new("1", (8, 8), 1), 1).unique().tolist() == [255]
    assert read(pillow.new("I;16", (8, 8), 100 * 257), 1).unique().tolist() == [100]
    assert read(pillow.new("L", (2, 2), 7)).shape == (3, 8, 8)
    half = pillow.new("L", (16, 8), 0)
    half.paste(200, (8, 0, 16, 8))
    assert read(half, 1)[0, 3].tolist() == [0] * 4 + [200] * 4
    turned = pillow.Exif()
    turned[0x0112] = 6  # to be turned by a quarter
    assert read(half, 1, exif=turned)[0, :, 3].tolist() == [0] * 4 + [200] * 4


def size_of(path):
    with pillow.open(path) as image:
        return image.size


def test_an_image_there_and_back(tmp_path):
    for channels in (1, 3):
        image = torch.randint(0, 256, (channels, 9, 9), dtype=torch.uint8)
        images.write_image(image, 5, tmp_path / "a.png")
        assert size_of(tmp_path / "a.png") == (45, 45)
        assert torch.equal(read_image(tmp_path / "a.png", 9, channels, ""), image)


WRONG = {
    "no columns": ("a.png,x\nb.png,y\n", "captions.csv, line 1: got columns a.png, x, expected columns file"),
    "another column": ("file,text\na.png,x\n", "captions.csv, line 1: got columns file, text, expected columns"),
    "empty": ("", "captions.csv, line 1: got nothing, expected columns file and caption"),
    "header alone": ("file,caption\n\n", "captions.csv holds no captions"),
    "no caption": ("file,caption\na.png,x\nb.png, \n", "captions.csv, line 3: no caption"),
    "no file": ("file,caption\n,x\n", "captions.csv, line 2: no file"),
    "too few values": ("file,caption\na.png\n", "captions.csv, line 2: got 1 values, expected 2"),
    "too many values": ("file,caption\na.png,x,y\n", "captions.csv, line 2: got 3 values, expected 2 (a cap"),
    "open quote": ('file,caption\na.png,"x\n', "captions.csv, line 2: unexpected end of data"),
    "one image": ("file,caption\na.png,x\na.png,y\n", "captions.csv names 1 image, expected at least 3: to train"),
    "missing image": ("file,caption\na.png,x\nb.png,x\nc.png,x\n",
                      "captions.csv, line 4: images has no file 'c.png'"),
    "no image": ("file,caption\na.png,x\nt.png,x\nb.png,x\n",
                 "captions.csv, line 3: images/t.png is no image that pillow can read"),
    "broken image": ("file,caption\na.png,x\nb.png,x\ncut.png,x\n",
                     "captions.csv, line 4: images/cut.png cannot be read as an image: "),
}  # fmt: skip


@pytest.fixture
def few_images(tmp_path, monkeypatch):
    """Two images, a text that is called one, and one that is cut off; captions.csv beside their folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    noise = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)
    for name in ("a", "b"):
        images.write_image(noise, 1, tmp_path / "images" / f"{name}.png")
    whole = (tmp_path / "images" / "a.png").read_bytes()
    (tmp_path / "images" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "images" / "t.png").write_text("an image")
    return tmp_path


def complaint(arguments, capsys):
    capsys.readouterr()
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("which", WRONG)
def test_captions_that_cannot_be_used(which, few_images, capsys):
    content, message = WRONG[which]
    (few_images / "captions.csv").write_text(content)
    err = complaint(["train", "caption", "--images", "images", "--captions", "captions.csv"], capsys)
    assert err.startswith(f"rnnfast train caption: --captions: {message}")


def test_files_that_cannot_be_used(few_images, capsys):
    train = ["train", "caption", "--images", "images", "--captions", "captions.csv"]
    assert "--captions: cannot read captions.csv: No such file" in complaint(train, capsys)
    (few_images / "captions.csv").write_bytes("file,caption\na.png,é\n".encode("latin-1"))
    assert "--captions: captions.csv is not UTF-8 (byte 19 does not fit)" in complaint(train, capsys)
    (few_images / "empty").mkdir()
    assert "--images: empty is empty" in complaint([*train[:3], "empty", *train[4:]], capsys)
    assert "--images: nowhere is no folder" in complaint([*train[:3], "nowhere", *train[4:]], capsys)
    assert "--captions: none given; --images FOLDER and" in complaint(train[:4], capsys)
    assert "--images: none given; --images FOLDER and" in complaint([*train[:2], *train[4:]], capsys)
    assert "--size: got 7, expected at least 8" in complaint([*train, "--size", "7"], capsys)


def test_an_input_that_is_no_image(squares, few_images, capsys):
    folder, file = squares
    Caption(images=folder, captions=file, output=few_images / "out", epochs=1, **SMALL).run()
    predict = ["predict", "caption", "--checkpoint", str(few_images / "out" / "model.pt")]
    assert "INPUT: none given, expected an image file" in complaint(predict, capsys)
    assert "INPUT: nowhere.png is no file, expected an image file" in complaint([*predict, "nowhere.png"], capsys)
    assert "INPUT: images/t.png is no image that pillow can read" in complaint([*predict, "images/t.png"], capsys)
    assert "INPUT: images/cut.png cannot be read as an image: " in complaint([*predict, "images/cut.png"], capsys)


# The model, and how it is judged


def captioner(vocabulary, attention="luong", cell="gru", size=16):
    options = dict(embedding_size=6, hidden_size=8, cell=cell, dropout=0.3, attention=attention, layers="rnnfast")
    ends = dict(start=vocabulary[START], end=vocabulary[END])
    return Captioner(len(vocabulary), channels=1, size=size, **ends, **options)


@pytest.mark.parametrize(("size", "side"), [(8, 4), (9, 5), (16, 8), (32, 8), (36, 5), (64, 8)])
def test_the_map_is_of_few_places(size, side):
    eye = Eye(3, size)
    assert eye(torch.zeros(2, 3, size, size, dtype=torch.uint8)).shape == (2, side**2, 64)
    assert eye.side == side


@pytest.mark.parametrize("attention", ["none", "luong", "bahdanau"])
@torch.no_grad()
def test_what_is_told_has_the_probabilities_that_training_gives(attention):
    torch.manual_seed(0)
    vocabulary = Vocabulary([START, END, "a", "b", "c"])
    model = captioner(vocabulary, attention).eval()
    found = torch.randint(0, 256, (5, 1, 16, 16), dtype=torch.uint8)
    for beam in (1, 3):
        for image, each in zip(found, tell(model, found, vocabulary, 6, beam), strict=True):
            assert set(each.words) <= {"a", "b", "c"}
            whole = vocabulary.encode([START, *each.words, END])
            logits = model(image[None], torch.tensor([whole[:-1]]))[0][0]
            p = logits.softmax(1)[torch.arange(len(whole) - 1), whole[1:]][:6]
            assert each.probabilities == pytest.approx(p.tolist(), rel=1e-4)
            if attention == "none":
                assert each.looks is None
            else:
                assert each.looks.shape == (len(p), 64)
                assert torch.allclose(each.looks.sum(1), torch.ones(len(p)))


@torch.no_grad()
def test_the_most_probable_words_are_written():
    torch.manual_seed(1)
    vocabulary = Vocabulary([START, END, *"abcd"])
    model = captioner(vocabulary, cell="lstm").eval()
    found = torch.randint(0, 256, (4, 1, 16, 16), dtype=torch.uint8)
    banned = [PADDING, 1, vocabulary[START]]
    model.writer.decoder.readout.bias[banned] += 5  # these are no words, however probable
    for image, row in zip(found, model.write(found, 5, 1), strict=True):
        tokens = [vocabulary[START]]
        for _ in range(5):
            logits = model(image[None], torch.tensor([tokens]))[0][0, -1]
            logits[banned] = -torch.inf
            tokens.append(int(logits.argmax()))
            if tokens[-1] == vocabulary[END]:
                break
        assert row == [t for t in tokens[1:] if t != vocabulary[END]]


def test_padding_and_the_rest_of_a_batch_have_no_influence_on_the_loss():
    vocabulary = Vocabulary([START, END, *"abcd"])
    found = Captioned(
        torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8), [["a b c d", "a"], ["b"], ["c d c"]]
    )
    model = captioner(vocabulary).eval()
    task = CaptionTask(model, found, found, vocabulary, longest=6, batch_size=4, seed=0)
    batch = task.batch(0)
    assert [part.shape for part in batch] == [(4, 1, 16, 16), (4, 6)]
    assert all(torch.equal(a, b) for a, b in zip(batch, task.batch(0), strict=True))
    with torch.no_grad():
        total, count = task.loss(model, batch)
        assert count == 4 + 1 + 1 + 3 + 4
        alone = 0.0
        for image, caption_ in found.rows():
            tokens = torch.tensor([vocabulary.encode([START, *caption_.split(), END])])
            alone += float(task.loss(model, (found.images[image][None], tokens))[0])
        assert float(total) == pytest.approx(alone, rel=1e-4)
        words = torch.tensor([vocabulary.encode([START, *row.split(), END])[1:] for row in ["a", "b"]])
        whole = Captioned(found.images[:2], [["a"], ["b"]])
        logits, _ = model(whole.images, torch.tensor([[vocabulary[START], w] for w, _ in words.tolist()]))
        task = CaptionTask(model, found, whole, vocabulary, longest=6, batch_size=4, seed=0)
        p = logits.softmax(2).gather(2, words.unsqueeze(2))
        assert task.evaluate()["held out"] == pytest.approx(-float(p.log().mean()), rel=1e-4)
    coded = Coded.of(found, vocabulary)
    assert coded.images.tolist() == [0, 0, 1, 2]


def test_captions_are_compared():
    found = scores(["a b c d e", "a b c d f"], [["x", "a b c d e"], ["a b c d e"]])
    assert found["exact"] == 0.5
    assert 70 < found["BLEU"] < 90
    assert scores(["a b c d"], [["a b c d"]]) == {"exact": 1.0, "BLEU": pytest.approx(100)}
    assert scores([""], [["a b c d"]])["BLEU"] == 0


def test_the_nearest_image():
    train = Captioned(torch.tensor([0, 100, 200], dtype=torch.uint8).view(3, 1, 1, 1), [["a"], ["b", "d"], ["c"]])
    test = Captioned(torch.tensor([90, 180], dtype=torch.uint8).view(2, 1, 1, 1), [["x"], ["y"]])
    assert nearest(train, test) == ["b", "c"]


@pytest.mark.slow
def test_scenes_are_told(tmp_path):
    result = Caption(epochs=4, output=tmp_path / "out").run()
    for rows in result.data["judged"].values():
        assert rows["lstm"]["exact"] > 2 * rows["cells by logistic regression, and the grammar"]["exact"]
    assert Path(tmp_path / "out" / "model.pt").is_file()
