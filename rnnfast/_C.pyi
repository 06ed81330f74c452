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
def build_info() -> dict[str, str | bool]: ...
