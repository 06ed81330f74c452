"""Data sets: a folder of the user's, the cache, and a publisher that this file plays on a local port."""

import gc
import hashlib
import io
import os
import socket
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rnnfast._program import UserError
from rnnfast.recipes import data
from rnnfast.recipes.sets import SETS, DataSet, Members

pytestmark = [
    # requests leaves its socket open after an error, until it is collected.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("collected_so_far"),
]

GREEK, IRISH = "Δ\nΩ\n".encode(), b"O'Neill\nRyan\n"
TINY = DataSet(
    "someone/names",
    "0123456789abcdef0123456789abcdef01234567",
    "lists",
    "none",
    {"Greek.txt": hashlib.sha256(GREEK).hexdigest(), "Irish.txt": hashlib.sha256(IRISH).hexdigest()},
)
SOUNDS = {f"clips/{name}.wav": name.encode() * 9 for name in ("one", "three", "two")}
LIST = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in SOUNDS.items())
MANY = DataSet(
    "someone/sounds",
    TINY.commit,
    "data",
    "none",
    members=Members("clips/*.wav", 3, hashlib.sha256(LIST.encode()).hexdigest()),
)
ZIP = f"{TINY.commit}.zip"


def archive(files):
    """As GitHub makes them: all in one folder of the repository's name, among much else."""
    written = io.BytesIO()
    others = {"README.md": b"sounds", "clips/one.wav": b"another", "data/clips/more/one.wav": b"deeper"}
    with zipfile.ZipFile(written, "w") as whole:
        whole.writestr("sounds-0123/", b"")  # a folder
        for name, content in {**others, **{f"data/{n}": c for n, c in files.items()}}.items():
            whole.writestr(f"sounds-0123/{name}", content)
        whole.writestr("sounds-0123/data/clips/list.txt", b"")
    return written.getvalue()


class Publisher(BaseHTTPRequestHandler):
    """Answers with what the server's `answers` says, by path; each answer is used once but for the last."""

    def do_GET(self):
        self.server.asked.append(self.path)
        answers = self.server.answers[self.path.rsplit("/", 1)[1]]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, int):
            self.send_error(answer)
            return
        content, promised = answer
        self.send_response(200)
        if promised is not None:
            self.send_header("Content-Length", str(promised))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


def whole(content):
    return content, len(content)


@pytest.fixture
def publisher(monkeypatch, tmp_path):
    pytest.importorskip("pooch", reason="fetching needs pooch")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Publisher)
    server.answers = {"Greek.txt": [whole(GREEK)], "Irish.txt": [whole(IRISH)], ZIP: [whole(archive(SOUNDS))]}
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/{{repository}}/{{commit}}/{{path}}"
    monkeypatch.setattr(data, "ADDRESS", address)
    monkeypatch.setattr(data, "ARCHIVE", address.replace("{commit}/{path}", "archive/{commit}.zip"))
    monkeypatch.setitem(SETS, "tiny", TINY)
    monkeypatch.setitem(SETS, "many", MANY)
    monkeypatch.setattr(data, "RETRIES", 0)  # before which it waits
    monkeypatch.setenv("RNNFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RNNFAST_DATA", raising=False)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
    gc.collect()


def left_behind(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_files_are_fetched_once_and_read_again_offline(publisher, tmp_path):
    found = data.find("tiny")
    assert found.lines("Greek.txt") == ["Δ", "Ω"]
    assert publisher.asked == [f"/someone/names/{TINY.commit}/lists/{name}.txt" for name in ("Greek", "Irish")]
    publisher.answers = {}
    assert data.find("tiny").lines("Irish.txt") == ["O'Neill", "Ryan"]
    assert len(publisher.asked) == 2
    assert left_behind(tmp_path) == ["Greek.txt", "Irish.txt"]


def test_only_what_is_wanted_is_fetched(publisher):
    assert list(data.find("tiny", only=["Irish.txt"]).files) == ["Irish.txt"]
    assert len(publisher.asked) == 1


BROKEN = {
    "truncated": ((GREEK[:3], len(GREEK)), "the transfer broke off"),
    "truncated, length not told": ((GREEK[:3], None), r"not the published file \(other SHA-256\)"),
    "wrong content": (whole(b"<html>Sign in</html>"), r"not the published file \(other SHA-256\)"),
    "empty": (whole(b""), r"not the published file \(other SHA-256\)"),
    "missing": (404, "the server answers 404 Not Found"),
    "failing": (503, "the server answers 503 Service Unavailable"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_transfer_is_told_in_a_line_and_leaves_nothing(how, publisher, tmp_path):
    answer, message = BROKEN[how]
    publisher.answers["Greek.txt"] = [answer]
    origin = "lists/Greek.txt of github.com/someone/names at commit 0123456789ab"
    with pytest.raises(UserError, match=f"data: tiny/Greek.txt: .*{message}; it is {origin}.*RNNFAST_DATA") as e:
        data.find("tiny")
    assert "\n" not in str(e.value)
    assert left_behind(tmp_path) == []
    publisher.answers["Greek.txt"] = [whole(GREEK)]
    assert data.find("tiny").lines("Greek.txt") == ["Δ", "Ω"]


def contents(found):
    return {name: path.read_bytes() for name, path in found.files.items()}


def test_many_files_are_fetched_once_as_an_archive(publisher, tmp_path, capsys):
    assert contents(data.find("many")) == SOUNDS
    assert publisher.asked == [f"/someone/sounds/archive/{ZIP}"]
    assert capsys.readouterr().err == "fetching many: 3 files, as an archive\n"
    publisher.answers = {}
    assert list(data.find("many").files) == list(SOUNDS)
    assert len(publisher.asked) == 1
    assert left_behind(tmp_path) == ["one.wav", "three.wav", "two.wav"]
    assert len(list((tmp_path / "cache" / "many").rglob("*"))) == 5
    assert capsys.readouterr().err == ""


OTHER = r"what came is not the published file \(other SHA-256\)"
WHOLE = archive(SOUNDS)
BROKEN_ARCHIVES = {
    "truncated": ((WHOLE[:-60], len(WHOLE)), "the transfer broke off"),
    "truncated, length not told": ((WHOLE[:-60], None), OTHER),
    "no archive": (whole(b"<html>Sign in</html>"), OTHER),
    "damaged": (whole(WHOLE.replace(b"oneone", b"onions")), OTHER),
    "a file edited": (whole(archive({**SOUNDS, "clips/two.wav": b"2"})), OTHER),
    "a file more": (whole(archive({**SOUNDS, "clips/zero.wav": b"0"})), OTHER),
    "a file less": (whole(archive({"clips/two.wav": SOUNDS["clips/two.wav"]})), OTHER),
    "none of the files": (whole(archive({})), OTHER),
    "missing": (404, "the server answers 404 Not Found"),
}


@pytest.mark.parametrize("how", BROKEN_ARCHIVES)
def test_a_broken_archive_is_told_in_a_line_and_leaves_nothing(how, publisher, tmp_path):
    answer, message = BROKEN_ARCHIVES[how]
    publisher.answers[ZIP] = [answer]
    origin = r"data/clips/\*.wav of github.com/someone/sounds at commit 0123456789ab"
    with pytest.raises(UserError, match=rf"data: many/clips/\*.wav: {message}; it is {origin}.*RNNFAST_DATA") as e:
        data.find("many")
    assert "\n" not in str(e.value)
    assert list((tmp_path / "cache" / "many" / TINY.commit[:12]).iterdir()) == []
    publisher.answers[ZIP] = [whole(WHOLE)]
    assert contents(data.find("many")) == SOUNDS


@pytest.mark.parametrize("how", ["edited", "missing", "more"])
def test_a_damaged_folder_of_the_cache_is_fetched_again(how, publisher, tmp_path):
    file = data.find("many").files["clips/two.wav"]
    if how == "edited":
        file.write_bytes(b"2")
    elif how == "missing":
        file.unlink()
    else:
        file.with_name("zero.wav").touch()
    assert contents(data.find("many")) == SOUNDS
    assert len(publisher.asked) == 2
    assert left_behind(tmp_path) == ["one.wav", "three.wav", "two.wav"]


def test_a_broken_archive_leaves_what_is_there(publisher, tmp_path):
    data.find("many").files["clips/two.wav"].unlink()
    publisher.answers[ZIP] = [404]
    with pytest.raises(UserError, match="404"):
        data.find("many")
    assert left_behind(tmp_path) == ["one.wav", "three.wav"]


def test_a_transfer_is_tried_again(publisher, monkeypatch):
    monkeypatch.setattr(data, "RETRIES", 1)
    publisher.answers["Greek.txt"] = [(GREEK[:3], len(GREEK)), whole(GREEK)]
    assert data.find("tiny", only=["Greek.txt"]).lines("Greek.txt") == ["Δ", "Ω"]
    assert len(publisher.asked) == 2


def test_a_damaged_cache_is_fetched_again(publisher, tmp_path):
    file = data.find("tiny").files["Irish.txt"]
    file.write_bytes(IRISH[:4])
    assert data.find("tiny").lines("Irish.txt") == ["O'Neill", "Ryan"]
    assert len(publisher.asked) == 3


def test_offline_and_missing(publisher, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(data, "ADDRESS", f"http://127.0.0.1:{unused.getsockname()[1]}/{{path}}")
        with pytest.raises(UserError, match=r"no connection to the server; it is .*github.com/someone/names"):
            data.find("tiny")


def test_a_silent_server(publisher, monkeypatch):
    monkeypatch.setattr(data, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(data, "ADDRESS", f"http://127.0.0.1:{silent.getsockname()[1]}/{{path}}")
        with pytest.raises(UserError, match=r"no answer within 0.2 s"):
            data.find("tiny")


def test_a_cache_that_cannot_be_written_to(publisher, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot write to .*cache/tiny"):
        data.find("tiny")


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setitem(SETS, "tiny", TINY)
    monkeypatch.delenv("RNNFAST_DATA", raising=False)
    folder = tmp_path / "own"
    (folder / "tiny").mkdir(parents=True)
    (folder / "tiny" / "Greek.txt").write_bytes(GREEK)
    (folder / "tiny" / "Irish.txt").write_bytes(IRISH)
    return folder


@pytest.mark.parametrize("how", ["--data", "RNNFAST_DATA"])
def test_a_folder_of_ones_own_needs_no_network(how, own, monkeypatch, capsys):
    if how == "RNNFAST_DATA":
        monkeypatch.setenv("RNNFAST_DATA", str(own))
    found = data.find("tiny", own if how == "--data" else None)
    assert found.lines("Irish.txt") == ["O'Neill", "Ryan"]
    assert found.edited == ()
    assert capsys.readouterr().err == ""


def test_an_edited_file_is_used_and_told_of(own, capsys):
    (own / "tiny" / "Irish.txt").write_text("Murphy\n")
    found = data.find("tiny", own)
    assert found.lines("Irish.txt") == ["Murphy"]
    assert found.edited == ("Irish.txt",)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "--data: tiny/Irish.txt" in told
    assert "used as it is" in told


def test_a_file_that_a_folder_lacks(own):
    (own / "tiny" / "Irish.txt").unlink()
    message = (
        r"--data: .*own has no tiny/Irish.txt; it is lists/Irish.txt of github.com/someone/names at commit 01"
    )
    with pytest.raises(UserError, match=message):
        data.find("tiny", own)


@pytest.fixture
def own_sounds(tmp_path, monkeypatch):
    monkeypatch.setitem(SETS, "many", MANY)
    monkeypatch.delenv("RNNFAST_DATA", raising=False)
    folder = tmp_path / "own" / "many" / "clips"
    folder.mkdir(parents=True)
    for name, content in SOUNDS.items():
        (folder.parent / name).write_bytes(content)
    (folder / "notes.txt").touch()
    return tmp_path / "own"


def test_many_files_of_ones_own_need_no_network(own_sounds, capsys):
    found = data.find("many", own_sounds)
    assert (contents(found), found.edited) == (SOUNDS, ())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("file", "count"), [("two.wav", 3), ("zero.wav", 4)])
def test_edited_files_among_many_are_used_and_told_of(file, count, own_sounds, capsys):
    (own_sounds / "many" / "clips" / file).write_bytes(b"0")
    found = data.find("many", own_sounds)
    assert len(found.files) == count
    assert found.edited == ("clips/*.wav",)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"--data: many/clips/*.wav in {own_sounds}: not the published files" in told


@pytest.mark.parametrize("left", [2, 0])
def test_many_files_of_which_a_folder_lacks_some(left, own_sounds):
    for path in sorted((own_sounds / "many" / "clips").glob("*.wav"))[left:]:
        path.unlink()
    message = (
        rf"--data: .*own has {left} files many/clips/\*.wav, expected 3; it is data/clips/\*.wav of github.com/"
    )
    with pytest.raises(UserError, match=message):
        data.find("many", own_sounds)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\n \n", "Irish.txt is empty"), ("Éire".encode("latin-1"), "not UTF-8 .byte 0 does not fit")],
)
def test_a_file_that_cannot_be_read(content, message, own):
    (own / "tiny" / "Irish.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        data.find("tiny", own).lines("Irish.txt")


def test_the_table_is_complete():
    for name, known in SETS.items():
        assert len(known.commit) == 40, name
        assert all(len(digest) == 64 for digest in known.sums.values()), name
        assert known.members is None or len(known.members.sha256) == 64, name
        assert known.repository.count("/") == 1
        assert bool(known.sums) != bool(known.members), name


@pytest.mark.parametrize("name", SETS)
def test_the_published_sums_are_those_of_the_real_files(name, capsys):
    folder = os.environ.get("RNNFAST_DATA")
    if not folder or not os.path.isdir(os.path.join(folder, name)):
        pytest.skip(f"RNNFAST_DATA names no folder with {name}/")
    assert data.find(name).edited == ()
    assert capsys.readouterr().err == ""
