"""What the channel table and the cutting of channel data decide, on dictionaries."""

from __future__ import annotations

from firezone.base.errors import LocalError
from firezone.base.net import Endpoint
from firezone.kernels.types import Reason
from tests.harness.twins import demux


class SlowChannelTable:
    """Open channels by relay socket and number; the value is whether data passed."""

    def __init__(self) -> None:
        self.relays: dict[Endpoint, dict[int, bool]] = {}

    def __len__(self) -> int:
        return len(self.relays)

    def add_relay(self, relay: Endpoint) -> None:
        self.relays.setdefault(relay, {})

    def remove_relay(self, relay: Endpoint) -> None:
        self.relays.pop(relay, None)

    def open(self, relay: Endpoint, number: int) -> None:
        _check(number)
        if relay not in self.relays:
            raise LocalError(f"No relay is known at {relay}.")
        self.relays[relay][number] = False

    def close(self, relay: Endpoint, number: int) -> None:
        _check(number)
        self.relays.get(relay, {}).pop(number, None)

    def has_received(self, relay: Endpoint, number: int) -> bool:
        _check(number)
        return self.relays.get(relay, {}).get(number, False)

    def unwrap(self, source: Endpoint, datagram: bytes) -> tuple[bytes, int, Reason]:
        """What a datagram becomes: its bytes, its channel (0: none), the reason of its punt."""
        kind = demux.kind(datagram)
        if kind != Reason.CHANNEL_DATA:
            return datagram, 0, kind
        number, length, payload = int.from_bytes(datagram[:2], "big"), datagram[2:4], datagram[4:]
        is_framed = len(datagram) >= 4 and int.from_bytes(length, "big") == len(payload)
        if not is_framed or source not in self.relays:
            return datagram, 0, Reason.UNKNOWN_DATAGRAM
        if number not in self.relays[source] or not payload or demux.kind(payload) != Reason.NONE:
            return datagram, 0, Reason.CHANNEL_DATA
        self.relays[source][number] = True
        return payload, number, Reason.NONE


def _check(number: int) -> None:
    if not 0x4000 <= number <= 0x4FFF:
        raise LocalError(f"{number:#06x} is no channel number.")
