from typing import Any

from numpy import int32, int64, uint8, uint16, uint32
from numpy.typing import NDArray

class PacketBatch:
    n: int
    capacity: int
    slab: NDArray[uint8]
    slot: NDArray[uint32]
    offset: NDArray[uint32]
    length: NDArray[uint32]
    stride: NDArray[uint16]
    socket: NDArray[uint16]
    local: NDArray[Any]
    remote: NDArray[Any]
    ecn: NDArray[uint8]
    peer: NDArray[int32]
    session: NDArray[int32]
    channel: NDArray[uint16]
    verdict: NDArray[uint8]
    reason: NDArray[uint8]
    prefix: NDArray[uint8]
    prefix_len: NDArray[uint8]
    skip: NDArray[uint16]
    ip_version: NDArray[uint8]
    protocol: NDArray[uint8]
    transport: NDArray[uint16]
    flags: NDArray[uint8]
    source_port: NDArray[uint16]
    destination_port: NDArray[uint16]
    next: NDArray[int32]
    def __init__(self, capacity: int) -> None: ...
    def over(self, slab: NDArray[uint8]) -> None: ...
    def clear(self) -> None: ...
    def append(self, offset: int, length: int, verdict: int = ...) -> int: ...
    def row_bytes(self, row: int) -> bytes: ...
    def rows(self, verdict: int) -> NDArray[int64]: ...
    def count_reasons(self, counters: NDArray[uint32]) -> int: ...
    def sizes(self) -> tuple[list[int], int]: ...

class RunList:
    runs: NDArray[Any]
    n: int
    capacity: int
    def __init__(self, capacity: int) -> None: ...
    def family(self, batch: PacketBatch, index: int) -> int: ...
