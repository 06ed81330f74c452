"""What setup.py says where it cannot build, and what a wheel holds."""

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch

import rnnfast

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").exists() or sys.platform != "linux", reason=f"no {ROOT}/setup.py, or not Linux"
)
# Ours or torch's: what a repaired wheel takes from the torch that it is used with.
EXCLUDED = ("libtorch*", "libc10*", "libgomp.so.1")


def run(*command, cwd=ROOT, **environment):
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (dict(RNNFAST_CUDA="yes"), "RNNFAST_CUDA: got 'yes', expected 0, 1 or auto"),
        (
            dict(RNNFAST_CUDA="1", CUDA_HOME="/nowhere", CUDA_PATH=""),
            "RNNFAST_CUDA=1, but the CUDA toolkit lacks nvcc; looked in /nowhere. "
            "CUDA_HOME names the toolkit's folder.",
        ),
    ],
)
def test_a_toolkit_that_is_not_there(environment, message):
    done = run(sys.executable, "setup.py", "--version", **environment)
    assert done.returncode != 0
    assert done.stderr == f"rnnfast: {message}\n"


def test_a_toolkit_that_is_too_old(tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "nvcc"
    script.write_text(f'#!/bin/sh\n[ "$1" != --version ] || {{ echo "release 12.1"; exit; }}\nexec {nvcc} "$@"\n')
    script.chmod(0o755)
    of_it = dict(CUDA_HOME=str(tmp_path), CUDA_PATH="")
    done = run(sys.executable, "setup.py", "--version", RNNFAST_CUDA="1", **of_it)
    assert done.returncode != 0
    assert "the CUDA toolkit lacks release 12.4 or newer (it is 12.1)" in done.stderr
    assert run(sys.executable, "setup.py", "--version", RNNFAST_CUDA="auto", **of_it).returncode == 0


def test_gpus_that_the_toolkit_does_not_know():
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc")
    done = run(sys.executable, "setup.py", "--version", TORCH_CUDA_ARCH_LIST="8.0;6.6+PTX")
    assert done.returncode != 0
    assert "TORCH_CUDA_ARCH_LIST: nvcc" in done.stderr
    assert "does not compile for 6.6+PTX" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("cuda", ["0", "auto"])
def test_a_wheel(tmp_path, cuda):
    """sdist, wheel from the sdist, repaired, installed in a fresh environment, and tested outside of the tree."""
    for tool in ("build", "auditwheel"):
        if run(sys.executable, "-m", tool, "--help").returncode != 0:
            pytest.skip(f"{tool} is not installed; the extra 'wheel' has it")
    source = tmp_path / "source"
    done = run("git", "clone", "-q", ROOT, source)
    assert done.returncode == 0, done.stderr
    done = run(
        sys.executable, "-m", "build", "--no-isolation", "-o", tmp_path / "dist", cwd=source, RNNFAST_CUDA=cuda
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (sdist,), (wheel,) = (list((tmp_path / "dist").glob(kind)) for kind in ("*.tar.gz", "*.whl"))
    assert sdist.name == f"rnnfast-{rnnfast.__version__}.tar.gz"
    with_cuda = "_cuda.so" in " ".join(zipfile.ZipFile(wheel).namelist())
    if cuda == "0":
        assert not with_cuda
    local = r"\+cu\d+" if with_cuda else ""
    assert re.match(f"rnnfast-{rnnfast.__version__}{local}-cp", wheel.name)
    assert with_cuda == ("rnnfast/_cuda.so" in zipfile.ZipFile(wheel).namelist())
    metadata = next(name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("METADATA"))
    required = re.findall(r"^Requires-Dist: ([^;\n]+)$", zipfile.ZipFile(wheel).read(metadata).decode(), re.M)
    assert required == ["torch>=2.10"]

    excluded = [part for pattern in EXCLUDED for part in ("--exclude", pattern)]
    done = run(sys.executable, "-m", "auditwheel", "repair", *excluded, "-w", tmp_path / "repaired", wheel)
    assert done.returncode == 0, done.stdout + done.stderr
    (repaired,) = (tmp_path / "repaired").glob("*.whl")
    check_symbols(repaired)
    assert not [name for name in zipfile.ZipFile(repaired).namelist() if ".libs/" in name]

    check_installed(repaired, tmp_path, with_cuda)


def check_symbols(wheel):
    """The newest symbols of glibc are those of the wheel's tag."""
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not installed; binutils has it")
    tagged = max(tuple(map(int, pair)) for pair in re.findall(r"manylinux_(\d+)_(\d+)_", wheel.name))
    folder = wheel.parent / "unpacked"
    zipfile.ZipFile(wheel).extractall(folder)
    newest = {"GLIBC": (0,), "GLIBCXX": (0,)}
    for library in folder.glob("rnnfast/*.so"):
        for name, version in re.findall(r"\b(GLIBC|GLIBCXX)_([\d.]+)", run("objdump", "-T", library).stdout):
            newest[name] = max(newest[name], tuple(map(int, version.split("."))))
    assert newest["GLIBC"][:2] <= tagged
    assert newest["GLIBCXX"] <= (3, 4, 30)  # of GCC 12


def check_installed(wheel, tmp_path, with_cuda):
    """In an environment that shares only this one's other packages."""
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh/bin/python"
    (site,) = (tmp_path / "fresh/lib").glob("python*/site-packages")
    done = run(python, "-m", "pip", "install", "-q", "--no-deps", wheel)
    assert done.returncode == 0, done.stderr
    (site / "others.pth").write_text(str(Path(torch.__file__).parents[1]) + "\n")
    shutil.copytree(ROOT / "tests", tmp_path / "outside/tests")
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "outside")
    program = (
        "import rnnfast, torch; torch.ones(300, 300) @ torch.ones(300, 300);"
        "rnnfast.RNN(64, 64)(torch.ones(9, 40, 64));"
        "print(rnnfast.__file__, rnnfast._library.CUDA);"
        "print(len({line.split()[-1] for line in open('/proc/self/maps') if 'libgomp' in line}))"
    )
    done = run(python, "-c", program, cwd=tmp_path / "outside", PYTHONPATH="")
    assert done.stdout.splitlines() == [f"{site}/rnnfast/__init__.py {with_cuda}", "1"], done.stderr
    tests = ["test_layers.py", "test_functional.py", "test_plan.py", "test_plan_cuda.py", "test_quantized.py"]
    options = ["-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in tests)]
    done = run(python, "-m", "pytest", *options, cwd=tmp_path / "outside", PYTHONPATH="")
    assert done.returncode == 0, done.stdout[-3000:]
