"""Builds rnnfast's compiled libraries with one ninja run. Metadata and tool settings are in pyproject.toml."""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# One library for each instruction set, from one source. x86-64 only; elsewhere the baseline serves.
ISA_FLAGS = {
    "baseline": "",
    "avx2": "-mavx2 -mfma -mf16c",
    "avx512": "-mavx512f -mavx512vl -mavx512bw -mavx512dq -mavx2 -mfma -mf16c",
}
ISAS = list(ISA_FLAGS) if platform.machine().lower() in ("x86_64", "amd64") else ["baseline"]
# The kernels are written in GCC/Clang vector types; where neither is at hand, layers run rnnfast.reference.
COMPILED = sys.platform in ("linux", "darwin")
OPENMP = "-fopenmp" if sys.platform == "linux" else ""  # torch on Linux brings libgomp.so.1, which this shares
# GPUs that have code of their own unless TORCH_CUDA_ARCH_LIST says otherwise; the last one's PTX serves later
# ones. On 7.5 only the stepwise kernels run.
CUDA_ARCHS = "7.5 8.0 9.0a 10.0+PTX"
OLDEST_CUDA = (12, 4)  # that has PTX 8.4


def sources() -> dict[str, list[str]]:
    """Source files of each library."""
    plans = ["csrc/plan.cpp", "csrc/cuda/plan_cuda.cpp"]
    libraries = {"_C": ["csrc/module.cpp", *plans], "_ops": ["csrc/ops.cpp"]}
    cpu = ["csrc/plan.cpp", "csrc/layer/ops.cpp", *in_folder("cpu")]
    libraries |= {f"_cpu_{isa}": cpu for isa in ISAS}
    if CUDA is not None:
        libraries["_cuda"] = ["csrc/plan.cpp", "csrc/layer/ops.cpp", *in_folder("cuda")]
    return libraries


def in_folder(folder: str) -> list[str]:
    files = [p for p in ROOT.glob(f"csrc/{folder}/*") if p.suffix in (".cpp", ".cu")]
    return sorted(p.relative_to(ROOT).as_posix() for p in files)


class Cuda:
    """A CUDA toolkit: its compiler, what that can compile for, and the version."""

    def __init__(self, nvcc: str) -> None:
        def told(*options: str) -> str:
            done = subprocess.run([nvcc, *options], capture_output=True, text=True)
            return done.stdout + done.stderr

        self.nvcc = nvcc
        # nvcc may be a script that calls another.
        top = re.search(r"TOP=(.+)", told("--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull))
        release = re.search(r"release (\d+\.\d+)", told("--version"))
        if top is None or release is None:
            raise SystemExit(f"rnnfast: {nvcc} does not tell its folder and its release; is it CUDA's compiler?")
        self.root, self.version = Path(top.group(1)).resolve(), release.group(1)
        known = {name.removeprefix("compute_") for name in told("--list-gpu-arch").split()}
        asked = os.environ.get("TORCH_CUDA_ARCH_LIST")
        archs = re.split(r"[;,\s]+", (asked or CUDA_ARCHS).strip())
        unknown = [arch for arch in archs if self.number(arch).rstrip("af") not in known]
        if asked and unknown:
            raise SystemExit(
                f"rnnfast: TORCH_CUDA_ARCH_LIST: nvcc {self.version} does not compile for {', '.join(unknown)}; "
                f"expected numbers such as 8.0 or 9.0a, with +PTX or without, of {', '.join(sorted(known))}"
            )
        self.archs = [arch for arch in archs if arch not in unknown]

    @staticmethod
    def number(arch: str) -> str:
        """As nvcc has it: "90a" of "9.0a+PTX"."""
        return arch.removesuffix("+PTX").replace(".", "")

    @classmethod
    def find(cls) -> "Cuda | None":
        """The toolkit to build with, if RNNFAST_CUDA (0, 1 or auto) wants one."""
        wanted = os.environ.get("RNNFAST_CUDA", "auto")
        if wanted not in ("0", "1", "auto"):
            raise SystemExit(f"rnnfast: RNNFAST_CUDA: got {wanted!r}, expected 0, 1 or auto")
        if wanted == "0" or sys.platform != "linux":
            return None
        homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
        places = [f"{home}/bin/nvcc" for home in homes] or [shutil.which("nvcc") or "", "/usr/local/cuda/bin/nvcc"]
        nvcc = next((place for place in places if place and os.access(place, os.X_OK)), None)
        cuda = cls(nvcc) if nvcc else None
        missing = [str(path) for path in cuda.needs() if not path.exists()] if cuda else ["nvcc"]
        if cuda and tuple(map(int, cuda.version.split("."))) < OLDEST_CUDA:
            missing.append(f"release {'.'.join(map(str, OLDEST_CUDA))} or newer (it is {cuda.version})")
        if not missing:
            return cuda
        if wanted == "1":
            looked = ", ".join(homes) or "PATH and /usr/local/cuda"
            raise SystemExit(
                f"rnnfast: RNNFAST_CUDA=1, but the CUDA toolkit lacks {', '.join(missing)}; looked in {looked}. "
                "CUDA_HOME names the toolkit's folder."
            )
        return None

    def needs(self) -> list[Path]:
        return [self.root / "include/cuda_runtime_api.h", self.libraries() / "libcudart_static.a"]

    def libraries(self) -> Path:
        return self.root / ("lib64" if (self.root / "lib64").exists() else "lib")

    def flags(self) -> str:
        """What makes nvcc compile for all of `archs`."""
        codes = []
        for arch in self.archs:
            n = self.number(arch)
            codes.append(f"-gencode arch=compute_{n},code=sm_{n}")
            if arch.endswith("+PTX"):
                codes.append(f"-gencode arch=compute_{n},code=compute_{n}")
        return " ".join(codes)


CUDA = Cuda.find() if COMPILED else None


def version() -> str:
    """rnnfast's; a build with CUDA adds that it is one, and of which major version. An sdist may become either."""
    base = re.search(r'__version__ = "(.+)"', (ROOT / "rnnfast" / "_version.py").read_text())
    assert base is not None
    local = f"+cu{CUDA.version.partition('.')[0]}" if CUDA is not None and "sdist" not in sys.argv else ""
    return base.group(1) + local


class NinjaBuild(build_ext):
    """Compiles every library in one dependency graph, so that all cores are used and rebuilds are short."""

    def get_ext_filename(self, fullname: str) -> str:
        # Only _C depends on the Python version; the others are found and loaded by torch.
        if fullname.endswith("_C"):
            return super().get_ext_filename(fullname)
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extensions(self) -> None:
        objects = ROOT / "build" / "objects"
        objects.mkdir(parents=True, exist_ok=True)
        (objects / "build.ninja").write_text(self.ninja_file())
        jobs = ["-j", os.environ["MAX_JOBS"]] if "MAX_JOBS" in os.environ else []
        try:
            import ninja

            command = [os.path.join(ninja.BIN_DIR, "ninja")]
        except ImportError:
            command = ["ninja"]
        if subprocess.run([*command, "-C", str(objects), *jobs]).returncode != 0:
            raise SystemExit("rnnfast: compiling failed; the compiler's message is above")

    def ninja_file(self) -> str:
        import pybind11
        import torch
        from torch.utils.cpp_extension import include_paths, library_paths

        def isystem(paths: list[str]) -> str:
            return " ".join(f"-isystem {quoted(path)}" for path in paths)

        version = self.distribution.get_version().partition("+")[0]
        target_torch = "0x020a000000000000"  # TORCH_TARGET_VERSION: the stable ABI as of torch 2.10
        extra = os.environ.get("RNNFAST_CXXFLAGS", "")
        common = f"-O3 -std=c++17 -fPIC -fvisibility=hidden -ffp-contract=fast -Wall -Wextra {OPENMP} {extra}"
        ops = f"-DTORCH_TARGET_VERSION={target_torch} {isystem(include_paths())}"
        facts = {"VERSION": version, "BUILD_TORCH": torch.__version__, "ISAS": ",".join(ISAS)}
        facts |= {"CUDA": CUDA.version if CUDA else "", "CUDA_ARCHS": ",".join(CUDA.archs) if CUDA else ""}
        macros = " ".join(f"'-DRNNFAST_{name}=\"{value}\"'" for name, value in facts.items())
        python = isystem([sysconfig.get_path("include"), pybind11.get_include()])
        flags = {"_C": f"{macros} {python}", "_ops": ops}
        flags |= {f"_cpu_{isa}": f"{ISA_FLAGS[isa] if len(ISAS) > 1 else ''} {ops}" for isa in ISAS}
        undefined = "-undefined dynamic_lookup" if sys.platform == "darwin" else ""
        torch_libraries = " ".join(f"-L{quoted(path)}" for path in library_paths()) + " -ltorch -ltorch_cpu -lc10"
        libraries = {library: "" if library == "_C" else torch_libraries for library in sources()}
        nvcc = ""
        if CUDA is not None:
            flags["_cuda"] = f"{ops} {isystem([str(CUDA.root / 'include')])}"
            libraries["_cuda"] += f" -L{quoted(str(CUDA.libraries()))} -lcudart_static -lrt -ldl -lpthread"
            nvcc = (
                f"{quoted(CUDA.nvcc)} -ccbin $cxx -O3 -std=c++17 --expt-relaxed-constexpr "
                f"{CUDA.flags()} -Xcompiler -fPIC,-fvisibility=hidden " + os.environ.get("RNNFAST_NVCCFLAGS", "")
            )
        compiler = os.environ.get("CXX", "c++")
        lines = [
            f"cxx = {compiler}",
            "rule compile",
            "  command = $cxx $flags -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "rule link",
            f"  command = $cxx -shared {OPENMP} {undefined} $in $libraries -o $out",
            "rule compile_cuda",
            f"  command = {nvcc} -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
        ]
        for library, files in sources().items():
            outputs = []
            for file in files:
                out = f"{library}/{file.removeprefix('csrc/').replace('/', '_')}.o"
                outputs.append(out)
                if file.endswith(".cu"):
                    lines += [f"build {out}: compile_cuda {ninja_escape(ROOT / file)}"]
                    continue
                lines += [
                    f"build {out}: compile {ninja_escape(ROOT / file)}",
                    f"  flags = {common} {flags[library]}",
                ]
            target = Path(self.get_ext_fullpath(f"rnnfast.{library}")).resolve()
            target.parent.mkdir(parents=True, exist_ok=True)
            lines += [f"build {ninja_escape(target)}: link {' '.join(outputs)}"]
            lines += [f"  libraries = {libraries[library]}"]
        return "\n".join(lines) + "\n"


def quoted(path: str) -> str:
    """For a command that ninja hands to a shell."""
    return shlex.quote(path).replace("$", "$$")


def ninja_escape(path: Path) -> str:
    return re.sub(r"([ :$])", r"$\1", str(path))


# `depends`: for the sdist, which has the CUDA sources too.
headers = sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("csrc/**/*.*h"))
headers += in_folder("cuda")
extensions = [Extension(f"rnnfast.{library}", files, depends=headers) for library, files in sources().items()]
setup(version=version(), ext_modules=extensions if COMPILED else [], cmdclass={"build_ext": NinjaBuild})
