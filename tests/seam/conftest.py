"""Compiles C++ against the package's headers."""

import ctypes
import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
FLAGS = "-O2 -std=c++17 -fPIC -shared -fvisibility=hidden -ffp-contract=fast -Wall -Wextra -Werror -fopenmp"


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """compiled("name.cpp"): the library that a file of this folder makes."""

    def compile(source):
        if not CSRC.is_dir():
            pytest.skip(f"the C++ sources are not at {CSRC}: not run from a checkout")
        path = tmp_path_factory.mktemp("seam") / f"{source}.so"
        compiler = os.environ.get("CXX", "c++")
        subprocess.run([compiler, *FLAGS.split(), f"-I{CSRC}", str(HERE / source), "-o", str(path)], check=True)
        return ctypes.CDLL(str(path))

    return compile
