"""Finds, chooses and loads the compiled libraries, and explains a failure.

Three libraries hold the CPU kernels, one for each instruction set; the one that
``torch.backends.cpu.get_cpu_capability()`` names is loaded, so the environment variable
``ATEN_CPU_CAPABILITY=default|avx2|avx512`` chooses for torch and for rnnfast alike. One more holds the CUDA
kernels, if it was built; it is loaded on machines without a GPU, too, for tracing and planning.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from ._C import CudaPlan, Plan

FOLDER = Path(__file__).resolve().parent
DTYPES = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))
HOW_TO_BUILD = (
    "Build it with `pip install --no-build-isolation -e .` in a checkout of rnnfast, or, if this is a source "
    "folder and rnnfast is installed elsewhere, start Python in another folder."
)


class FallbackPlan(NamedTuple):
    """What :func:`plan` returns where no compiled library serves: the recurrence runs in plain torch."""

    schedule: str
    why: str
    workers: int = 0
    crew: int = 0
    weights: str = "none"
    tile: tuple[int, int] = (0, 0)
    isa: str = "none"


class CudaLimits(NamedTuple):
    """What :func:`plan` needs to know of a GPU.

    Example:
        >>> mig_slice = rnnfast.CudaLimits(capability=(9, 0), multiprocessors=16, shared_memory=232448)
    """

    capability: tuple[int, int]
    multiprocessors: int
    shared_memory: int
    """Bytes that a block of threads may ask for."""
    clusters: tuple[int, int, int, int] | None = None
    """Clusters of 2, 4, 8 and 16 blocks, a multiprocessor for each block, that run at the same time; by default as
    many as full chips of the kind have, a MIG slice has fewer."""

    @classmethod
    def of(cls, device: torch.device) -> CudaLimits:
        found = torch.cuda.get_device_properties(device)
        capability = (found.major, found.minor)
        index = torch.cuda.current_device() if device.index is None else device.index
        a, b, c, d = (torch.ops.rnnfast.cuda_clusters(index, size) for size in (2, 4, 8, 16))
        return cls(capability, found.multi_processor_count, found.shared_memory_per_block_optin, (a, b, c, d))

    def as_arguments(self) -> dict[str, Any]:
        """As ``_C.plan_cuda`` takes them."""
        major, minor = self.capability
        return dict(
            capability=10 * major + minor,
            multiprocessors=self.multiprocessors,
            shared_memory=self.shared_memory,
            clusters=self.known_clusters(),
        )

    def known_clusters(self) -> tuple[int, int, int, int]:
        """``clusters``, or what they are by default."""
        if self.clusters is not None:
            return self.clusters
        n = self.multiprocessors if self.capability >= (9, 0) else 0
        return n // 2, n // 4, n // 8, n // 18  # 16 blocks want most of a chip's 16 to 18 neighbours


def strict() -> bool:
    """Whether ``RNNFAST_STRICT=1`` asks for errors in place of fallbacks."""
    return os.environ.get("RNNFAST_STRICT", "0") not in ("", "0")


def wanted_isa() -> str:
    """The instruction set that torch uses on this CPU, by the name of our library for it."""
    capability = torch.backends.cpu.get_cpu_capability()
    return {"AVX2": "avx2", "AVX512": "avx512"}.get(capability, "baseline")


def _load() -> str | None:
    """Loads the libraries; returns the instruction set, or None where none is built for this platform."""
    isa = wanted_isa()
    wanted = [FOLDER / "_ops.so", FOLDER / f"_cpu_{isa}.so"]
    cuda = FOLDER / "_cuda.so"
    found = sorted(path.name for path in FOLDER.glob("_*.so"))
    missing = [path.name for path in wanted if not path.exists()]
    if missing:
        message = (
            f"rnnfast: no compiled library: looked for {', '.join(missing)} in {FOLDER}, "
            f"found {', '.join(found) or 'none'}. {HOW_TO_BUILD}"
        )
        if strict():
            raise ImportError(message)
        warnings.warn(f"{message} Layers run in plain torch until then.", RuntimeWarning, stacklevel=2)
        return None
    try:
        for path in [*wanted, *([cuda] if cuda.exists() else [])]:
            torch.ops.load_library(str(path))
    except OSError as error:
        raise ImportError(
            f"rnnfast: {path.name} was found in {FOLDER} but does not load under torch "
            f"{torch.__version__}: {error}. rnnfast needs torch >= 2.10. {HOW_TO_BUILD}"
        ) from error
    try:
        from . import _C  # noqa: F401
    except ImportError as error:
        found = sorted(path.name for path in FOLDER.glob("_C*.so"))
        raise ImportError(
            f"rnnfast: looked for _C for Python {platform.python_version()} in {FOLDER}, "
            f"found {', '.join(found) or 'none'}: {error}. {HOW_TO_BUILD}"
        ) from error
    return isa


ISA = _load()
# Whether there are CUDA kernels; not for ROCm, which calls its devices by the same name.
CUDA = ISA is not None and (FOLDER / "_cuda.so").exists() and torch.version.hip is None
_warned: set[tuple[Any, ...]] = set()


def serves(input: torch.Tensor) -> bool:
    """Whether a compiled kernel runs on a tensor's device and dtype.

    Where none does it warns, once for each of these, or raises NotImplementedError under ``RNNFAST_STRICT=1``.
    """
    if ISA is not None and (input.is_cpu or (CUDA and input.is_cuda) or input.is_meta) and input.dtype in DTYPES:
        return True
    device, dtype = input.device, input.dtype
    message = (
        f"rnnfast: no compiled kernel for device '{device.type}' and dtype {dtype}; "
        "the recurrence runs in plain torch, step by step"
    )
    if strict():
        raise NotImplementedError(f"{message}, which RNNFAST_STRICT=1 forbids")
    if (device.type, dtype) not in _warned:
        _warned.add((device.type, dtype))
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return False


def precision(device: torch.device, dtype: torch.dtype) -> str | None:
    """How products of float32 may round on a GPU: as torch's cuDNN layers do. None: it does not matter."""
    if device.type != "cuda" or dtype != torch.float32:
        return None
    rnn: Any = getattr(torch.backends.cudnn, "rnn", None)
    if hasattr(rnn, "fp32_precision"):  # the older flag cannot be read where others were set one by one
        return "tf32" if rnn.fp32_precision == "tf32" else "ieee"
    return "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"


def plan(
    cell: str,
    T: int,
    B: int,
    H: int,
    *,
    G: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    isa: str | None = None,
    pass_: str = "forward",
    initial: bool = False,
    I: int = 0,  # noqa: E741
    P: int = 0,
    limits: CudaLimits | None = None,
    tf32: bool | None = None,
    beside: int = 0,
) -> Plan | CudaPlan | FallbackPlan:
    """How a recurrence would be run, and why.

    Args:
        cell: ``"elman_tanh"``, ``"elman_relu"``, ``"lstm"`` or ``"gru"``.
        T, B, H: steps, rows of the batch, units.
        G: groups run side by side, for instance 2 for a bidirectional layer.
        dtype, device: of the tensors.
        threads: as set by :func:`torch.set_num_threads`; by default the present number.
        isa: ``"baseline"``, ``"avx2"`` or ``"avx512"``; by default the one in use.
        pass_: ``"forward"`` or ``"bptt"``.
        initial: whether there is an initial state, so that the first step has a matrix product.
        I: units of the input, if the pass projects it, as a layer's forward does.
        P: units of the state, if a projection makes them differ from H.
        limits: of a GPU; by default those of `device`. With them, plans for GPUs can be made without one.
        tf32: whether products of float32 may round to TF32 on a GPU; by default as torch's cuDNN layers do.
        beside: how many other recurrences run on the GPU at the same time, each with its share of it.

    Returns:
        For a CPU, an object with

        * ``schedule``: ``"batch_split"``, each worker owns rows of the batch; ``"unit_split"``, workers that
          share rows own units each; ``"fallback"``, no compiled kernel serves.
        * ``workers``, and ``crew``: how many of them share rows.
        * ``weights``: ``"packed"``, rearranged for the kernel first; ``"in_place"``, read as they lie.
        * ``tile`` (rows, columns) of the kernel, ``isa`` and ``why``; ``isa`` is ``"avx512_bf16"`` where bfloat16
          is multiplied by this processor's own instruction.

        For a GPU, one with

        * ``schedule``: ``"cta"``, all steps in a launch, where each block of threads owns rows of the batch and
          keeps W_hh in its registers and shared memory; ``"cluster"`` and ``"grid"``, the same for crews of
          blocks, each with some of the units, which hand on states through each other's shared memory or through
          the second-level cache; ``"scatter"``, clusters that hand on partial sums of gradients, backwards;
          ``"stepwise"``, a product and a kernel for each step.
        * ``arithmetic`` of one launch: ``"mma"`` by tensor cores, ``"fma"`` without; ``crew``: blocks that share
          rows, in thread-block clusters of ``cluster`` blocks, which in a grid read a fraction of the states each
          and scatter partial sums; ``tile``: rows of the batch of a crew, and units of each
          member, or, of cta, that its threads (fma) or warps (mma) have at a time.
        * ``launches``: of a grid, more than one where its crews do not fit the GPU at the same time; ``blocks`` of
          each, and for each of these its ``threads``, its ``shared_memory`` and the bytes of weights that it
          keeps in registers, ``weight_registers``.
        * ``microseconds``: of a step, as estimated; ``work``: from how much of what. ``why``.

    Example:
        >>> rnnfast.plan("elman_tanh", T=100, B=64, H=512, threads=2).workers
        2
        >>> h100 = rnnfast.CudaLimits(capability=(9, 0), multiprocessors=132, shared_memory=232448)
        >>> rnnfast.plan("lstm", T=1024, B=16, H=128, dtype=torch.bfloat16, device="cuda", limits=h100).schedule
        'cta'
    """
    device = torch.device(device)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype: got {dtype!r}, expected a torch.dtype")
    cuda = device.type == "cuda" and (CUDA or (limits is not None and ISA is not None))
    if ISA is None or not (cuda or device.type in ("cpu", "meta")) or dtype not in DTYPES:
        return FallbackPlan("fallback", f"no compiled kernel for device '{device.type}' and dtype {dtype}")
    from . import _C

    name = str(dtype).removeprefix("torch.")
    if cuda:
        limits = limits or CudaLimits.of(device)
        return _C.plan_cuda(
            cell,
            T,
            B,
            H,
            G,
            name,
            **limits.as_arguments(),
            pass_=pass_,
            tf32=precision(device, dtype) == "tf32" if tf32 is None else tf32,
            P=P,
            beside=beside,
        )
    return _C.plan(
        cell,
        T,
        B,
        H,
        G,
        name,
        isa=isa or ISA,
        threads=torch.get_num_threads() if threads is None else threads,
        processors=_processors() if threads is None else threads,
        pass_=pass_,
        initial=initial,
        I=I,
        P=P,
    )


def _processors() -> int:
    """Processors that this process may run on, as the planner counts them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_wishes = threading.local()


def wished_chunks() -> int | None:
    """Those of :func:`forced_plan`."""
    return getattr(_wishes, "chunks", None)


@contextlib.contextmanager
def forced_plan(
    schedule: str | None = None,
    weights: str | None = None,
    workers: int | None = None,
    *,
    rows: int | None = None,
    crew: int | None = None,
    arithmetic: str | None = None,
    cluster: int | None = None,
    chunks: int | None = None,
) -> Iterator[None]:
    """Has the recurrences that this thread runs meanwhile planned as given, to measure or to test.

    What cannot be had is brought as near as can be: there are no more workers than units or rows to own. Backward
    passes on CUDA run in a thread of autograd's, unless ``torch.autograd.set_multithreading_enabled(False)``.

    Args:
        schedule: ``"batch_split"`` or ``"unit_split"``; weights: ``"packed"`` or ``"in_place"``; workers: their
            number. On CUDA, schedule: ``"cta"``, ``"cluster"``, ``"scatter"`` (``"cluster"`` forwards), ``"grid"``
            or ``"stepwise"``, which is taken where the others cannot be; rows: of the batch, of a block or crew;
            crew: blocks that share rows; cluster: of a grid, blocks of a thread-block cluster, 1 for none;
            arithmetic: ``"fma"`` or ``"mma"``, of float32 that may be rounded. See :func:`plan`. None leaves the
            choice to the planner.
        chunks: in which layers of a stack run side by side, all of them, with one direction and no further
            options; 1: one layer after the other, as also by default where a schedule on CUDA is given. Dropout
            masks are drawn chunk by chunk, so that a seed gives others.

    Raises:
        ValueError: for a name that is not one of these.
        RuntimeError: for a number of workers that is not positive.

    Example:
        >>> with rnnfast.forced_plan(schedule="batch_split", workers=1):
        ...     output, h_n = rnn(x)
    """
    if ISA is None:
        yield
        return
    of_cuda = CUDA and schedule in ("cta", "cluster", "scatter", "grid", "stepwise")
    if chunks is not None and chunks < 1:
        raise ValueError(f"chunks: got {chunks}, expected at least 1")
    try:
        _wishes.chunks = 1 if chunks is None and of_cuda else chunks
        if of_cuda:
            torch.ops.rnnfast.wish_cuda_plan(schedule, rows, crew, arithmetic, cluster)
        torch.ops.rnnfast.wish_plan(None if of_cuda else schedule, weights, workers)
        yield
    finally:
        _wishes.chunks = None
        torch.ops.rnnfast.wish_plan(None, None, None)
        if of_cuda:
            torch.ops.rnnfast.wish_cuda_plan(None)


def build_info() -> dict[str, Any]:
    """What the compiled libraries were built with, and what is in use.

    That is ``isa_in_use``, which library, and ``bf16_dots``, whether the avx512 library finds a processor that
    multiplies bfloat16 by an instruction of its own.
    """
    if ISA is None:
        return {"isa_in_use": None}
    from . import _C

    return {**_C.build_info(), "isa_in_use": ISA}
