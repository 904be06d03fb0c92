from collections.abc import Iterable, Sequence

from firezone.base.net import Network
from firezone.kernels.batch import PacketBatch

MAX_PEERS: int

_PortRanges = Sequence[tuple[int, int]]

class FilterTable:
    def __init__(self, seed: bytes = ...) -> None: ...
    def set_peer(
        self,
        peer: int,
        remote: Sequence[Network],
        local: Sequence[Network] | None,
        rules: Sequence[tuple[Network, bool, _PortRanges, _PortRanges, bool]] | None,
    ) -> None: ...
    def add_rules(self, peer: int, rules: Sequence[tuple[Network, bool, _PortRanges, _PortRanges, bool]]) -> None: ...
    def remove_peer(self, peer: int) -> None: ...
    def admit_from_tunnel(self, batch: PacketBatch) -> int: ...
    def admit_to_tunnel(self, batch: PacketBatch) -> int: ...

def merge_ranges(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]: ...
