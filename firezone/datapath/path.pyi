from typing import final

from numpy import uint32
from numpy.typing import NDArray

from firezone.datapath.tables import Tables
from firezone.kernels.batch import PacketBatch, RunList
from firezone.kernels.ring import PacketRing

SLAB_SIZE: int
UPLINK_STAGES: tuple[str, ...]
DOWNLINK_STAGES: tuple[str, ...]

class _Direction:
    batch: PacketBatch
    runs: RunList
    taken: int
    punted: int
    def __init__(self, tables: Tables, reasons: NDArray[uint32]) -> None: ...
    @property
    def is_timed(self) -> bool: ...
    @is_timed.setter
    def is_timed(self, is_on: bool) -> None: ...

@final
class Uplink(_Direction):
    @property
    def stage_ns(self) -> dict[str, int]: ...
    def run(self, ring: PacketRing, entries: int, now: int) -> int: ...

@final
class Downlink(_Direction):
    @property
    def stage_ns(self) -> dict[str, int]: ...
    def run(self, ring: PacketRing, entries: int, now: int, *, coalesce: bool) -> int: ...
