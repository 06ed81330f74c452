"""Compiling CUDA sources for the CPU (cuda_host.h)."""

import concurrent.futures
import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
KERNELS = sorted(path for path in CSRC.glob("cuda/*.cu") if path.name != "occupancy.cu")  # that asks the GPU
HARNESS = [HERE / "cuda_host.cpp", HERE / "runtime_host.cpp"]
FLAGS = "-std=c++20 -fPIC -fvisibility=hidden -Wall -Wextra -Werror -Wno-unknown-pragmas -DRNNFAST_CUDA_HOST"


def cuda_headers():
    """The include folders of a CUDA toolkit; skips where there is none."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    homes = homes or ["/usr/local/cuda"]
    folders = [f"{home}/{folder}" for home in homes for folder in ("include", "include/cccl")]
    found = [folder for folder in folders if Path(folder).is_dir()]
    if not CSRC.is_dir():
        pytest.skip(f"the C++ sources are not at {CSRC}: not run from a checkout")
    if not found:
        pytest.skip(f"no headers of a CUDA toolkit under {', '.join(homes)}")
    return found


def compile_objects(sources, flags, directory):
    """Objects of the sources, two compilers at a time, since each takes gigabytes under sanitizers."""
    folders = [f"-I{HERE}", f"-I{CSRC}", *(f"-isystem{folder}" for folder in cuda_headers())]

    def compile(source):
        out = directory / f"{source.parent.name}_{source.name}.o"
        # The scheduler behind the kernels must not be instrumented for ThreadSanitizer (cuda_host.cpp).
        own = [f for f in flags if not (f == "-fsanitize=thread" and source.name == "cuda_host.cpp")]
        compiler = os.environ.get("CXX", "c++")
        command = [compiler, *FLAGS.split(), *own, *folders, "-x", "c++", "-c", source, "-o", out]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        return out

    with concurrent.futures.ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        return list(pool.map(compile, sources))


def link(objects, flags, path):
    command = [os.environ.get("CXX", "c++"), *map(str, objects), *flags, "-o", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return path
