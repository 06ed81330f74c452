"""Builds rnnfast's compiled libraries with one ninja run. Metadata and tool settings are in pyproject.toml."""

import os
import platform
import re
import shlex
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


def sources() -> dict[str, list[str]]:
    """Source files of each library."""
    libraries = {"_C": ["csrc/module.cpp", "csrc/plan.cpp"], "_ops": ["csrc/ops.cpp"]}
    cpu = ["csrc/plan.cpp", *sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("csrc/cpu/*.cpp"))]
    return libraries | {f"_cpu_{isa}": cpu for isa in ISAS}


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

        version = self.distribution.get_version()
        target_torch = "0x020a000000000000"  # TORCH_TARGET_VERSION: the stable ABI as of torch 2.10
        extra = os.environ.get("RNNFAST_CXXFLAGS", "")
        common = f"-O3 -std=c++17 -fPIC -fvisibility=hidden -ffp-contract=fast -Wall -Wextra {OPENMP} {extra}"
        ops = f"-DTORCH_TARGET_VERSION={target_torch} {isystem(include_paths())}"
        facts = {"VERSION": version, "BUILD_TORCH": torch.__version__, "ISAS": ",".join(ISAS)}
        macros = " ".join(f"'-DRNNFAST_{name}=\"{value}\"'" for name, value in facts.items())
        python = isystem([sysconfig.get_path("include"), pybind11.get_include()])
        flags = {"_C": f"{macros} {python}", "_ops": ops}
        flags |= {f"_cpu_{isa}": f"{ISA_FLAGS[isa] if len(ISAS) > 1 else ''} {ops}" for isa in ISAS}
        undefined = "-undefined dynamic_lookup" if sys.platform == "darwin" else ""
        torch_libraries = " ".join(f"-L{quoted(path)}" for path in library_paths()) + " -ltorch -ltorch_cpu -lc10"
        compiler = os.environ.get("CXX", "c++")
        lines = [
            f"cxx = {compiler}",
            "rule compile",
            "  command = $cxx $flags -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "rule link",
            f"  command = $cxx -shared {OPENMP} {undefined} $in $libraries -o $out",
        ]
        for library, files in sources().items():
            outputs = []
            for file in files:
                out = f"{library}/{Path(file).stem}.o"
                lines += [
                    f"build {out}: compile {ninja_escape(ROOT / file)}",
                    f"  flags = {common} {flags[library]}",
                ]
                outputs.append(out)
            target = Path(self.get_ext_fullpath(f"rnnfast.{library}")).resolve()
            target.parent.mkdir(parents=True, exist_ok=True)
            lines += [f"build {ninja_escape(target)}: link {' '.join(outputs)}"]
            lines += [f"  libraries = {'' if library == '_C' else torch_libraries}"]
        return "\n".join(lines) + "\n"


def quoted(path: str) -> str:
    """For a command that ninja hands to a shell."""
    return shlex.quote(path).replace("$", "$$")


def ninja_escape(path: Path) -> str:
    return re.sub(r"([ :$])", r"$\1", str(path))


headers = sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("csrc/**/*.h"))  # `depends`: for the sdist
extensions = [Extension(f"rnnfast.{library}", files, depends=headers) for library, files in sources().items()]
setup(ext_modules=extensions if COMPILED else [], cmdclass={"build_ext": NinjaBuild})
