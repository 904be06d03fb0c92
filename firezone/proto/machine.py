"""What the fair loop asks of a machine: the client's state and the gateway's, and in tests a table of plain WireGuard peers.

A machine sees single packets only when the compiled stages punt them. Everything it wants from outside is polled.
"""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from firezone.base.ids import PeerRow
from firezone.base.net import Endpoint, Transmit
from firezone.base.timing import Instant, UnixTime
from firezone.kernels.types import Reason
from firezone.proto.updates import TableUpdate


class Machine(Protocol):
    """The pure state behind one tunnel. Any `handle_*` may raise FirezoneError: the row is lost, the tick goes on."""

    def handle_packet(self, packet: bytes, ecn: int, reason: Reason, now: Instant) -> None:
        """Takes a packet from TUN that the tables could not place (NO_PEER, NO_PATH)."""

    def handle_datagram(self, local: Endpoint, remote: Endpoint, datagram: bytes, ecn: int, now: Instant) -> None:
        """Takes a datagram that is not transport data of a known session: STUN, handshakes."""

    def handle_refused(self, row: PeerRow, packet: bytes, reason: Reason, now: Instant) -> None:
        """Takes a packet out of the tunnel that its peer's filter refused."""

    def handle_control(self, row: PeerRow, packet: bytes, now: Instant) -> None:
        """Takes an in-tunnel control packet."""

    def handle_activity(self, records: NDArray[Any], now: Instant) -> None:
        """Takes what the compiled path sent and received since the last call, one record per session."""

    def handle_timeout(self, now: Instant, utc: UnixTime) -> None:
        """Does what is due."""

    def poll_timeout(self) -> tuple[Instant, str] | None:
        """Returns when `handle_timeout` must be called, and why."""

    def poll_transmit(self) -> Transmit | None:
        """Returns the next datagram to send."""

    def poll_packet(self) -> bytes | None:
        """Returns the next packet for TUN."""

    def poll_update(self) -> TableUpdate | None:
        """Returns the next change of the compiled tables."""

    def poll_event(self) -> object | None:
        """Returns the next event for the program around the machine."""
