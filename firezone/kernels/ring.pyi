from typing import Any

from _typeshed import ReadableBuffer
from numpy import uint8, uint16, uint32
from numpy.typing import NDArray

from firezone.kernels.batch import PacketBatch, RunList

class PacketRing:
    slots: int
    slot_size: int
    slab: NDArray[uint8]
    offset: NDArray[uint32]
    length: NDArray[uint32]
    stride: NDArray[uint16]
    socket: NDArray[uint16]
    local: NDArray[Any]
    remote: NDArray[Any]
    ecn: NDArray[uint8]
    def __init__(self, slots: int, slot_size: int = ...) -> None: ...
    def ready(self) -> int: ...
    def free(self) -> int: ...
    def tail(self) -> int: ...
    def release(self, n: int) -> bool: ...
    def taken(self) -> tuple[list[int], int]: ...
    @property
    def most_used(self) -> int: ...
    def consumer_sleeps(self) -> bool: ...
    def push(
        self,
        data: ReadableBuffer,
        *,
        offset: int = ...,
        stride: int = ...,
        socket: int = ...,
        local: Any = ...,
        remote: Any = ...,
        ecn: int = ...,
    ) -> bool: ...
    def push_datagram_runs(self, batch: PacketBatch, runs: RunList, first: int = ..., count: int = ...) -> int: ...
    def push_packet_runs(self, batch: PacketBatch, runs: RunList, first: int = ...) -> int: ...
