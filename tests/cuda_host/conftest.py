"""The CUDA kernels as operators for tensors on the CPU."""

import pytest
import torch
from building import CSRC, HARNESS, HERE, KERNELS, compile_objects, link
from torch.utils.cpp_extension import include_paths, library_paths

OPERATORS = ["-DRNNFAST_NAMESPACE=rnnfast_cuda_host", "-DRNNFAST_CUDA_KEY=CPU"]
OPERATORS += ["-DTORCH_TARGET_VERSION=0x020a000000000000"]
# All but device.cpp.
TENSORS = ("running.cpp", "backend.cpp", "ops_cuda.cpp", "plan_cuda.cpp", "pass_info.cpp", "products.cpp")


@pytest.fixture(scope="session")
def operators(tmp_path_factory):
    """rnnfast's CUDA operators, for tensors on the CPU: ``torch.ops.rnnfast_cuda_host``."""
    directory = tmp_path_factory.mktemp("cuda_host")
    sources = [
        *KERNELS,
        *(CSRC / "cuda" / name for name in TENSORS),
        *(CSRC / name for name in ("ops.cpp", "layer/ops.cpp", "plan.cpp")),
        HERE / "device_host.cpp",
        *HARNESS,
    ]
    torch_folders = [f"-isystem{folder}" for folder in include_paths()]
    objects = compile_objects(sources, ["-O1", *OPERATORS, *torch_folders], directory)
    libraries = [*(f"-L{folder}" for folder in library_paths()), "-ltorch_cpu", "-lc10"]
    torch.ops.load_library(str(link(objects, ["-shared", *libraries], directory / "operators.so")))
    return torch.ops.rnnfast_cuda_host
