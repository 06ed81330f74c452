from collections.abc import Sequence

class Plan:
    @property
    def schedule(self) -> str: ...
    @property
    def workers(self) -> int: ...
    @property
    def crew(self) -> int: ...
    @property
    def weights(self) -> str: ...
    @property
    def tile(self) -> tuple[int, int]: ...
    @property
    def isa(self) -> str: ...
    @property
    def why(self) -> str: ...

def plan(
    cell: str,
    T: int,
    B: int,
    H: int,
    G: int = 1,
    dtype: str = "float32",
    *,
    isa: str,
    threads: int,
    processors: int,
    pass_: str = "forward",
    initial: bool = False,
    I: int = 0,
    P: int = 0,
) -> Plan: ...

class CudaPlan:
    @property
    def schedule(self) -> str: ...
    @property
    def arithmetic(self) -> str: ...
    @property
    def tile(self) -> tuple[int, int]: ...
    @property
    def crew(self) -> int: ...
    @property
    def cluster(self) -> int: ...
    @property
    def launches(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def shared_memory(self) -> int: ...
    @property
    def weight_registers(self) -> int: ...
    @property
    def microseconds(self) -> float: ...
    @property
    def work(self) -> dict[str, float]: ...
    @property
    def why(self) -> str: ...

def plan_cuda(
    cell: str,
    T: int,
    B: int,
    H: int,
    G: int = 1,
    dtype: str = "float32",
    *,
    capability: int,
    multiprocessors: int,
    shared_memory: int,
    clusters: Sequence[int],
    pass_: str = "forward",
    tf32: bool = False,
    P: int = 0,
    beside: int = 0,
    schedule: str | None = None,
    rows: int | None = None,
    crew: int | None = None,
    arithmetic: str | None = None,
    cluster: int | None = None,
) -> CudaPlan: ...
def cuda_work_cycles() -> dict[str, float]: ...
def build_info() -> dict[str, str | bool]: ...
