"""What a node and its connections have sent and received, kept for whoever asks; nothing here decides anything.

Source: Firezone's snownet `NodeStats` and `ConnectionStats`; the kinds of paths are those of its newest version.
"""

from __future__ import annotations

from dataclasses import dataclass

from firezone.base.timing import MILLISECOND, SECOND, Instant
from firezone.proto.ice.pair import Pair
from firezone.wire.candidate import CandidateKind

_SUMS = ("stun_direct_bytes", "stun_relayed_bytes", "sent_bytes", "received_bytes", "handshakes")


@dataclass(slots=True)
class ConnectionStatistics:
    """One connection's own, or the sums of many."""

    stun_direct_bytes: int = 0
    """Checks and answers sent straight to the peer."""
    stun_relayed_bytes: int = 0
    """The same through a relay of ours, the four bytes of channel data included."""
    sent_bytes: int = 0
    """Packets to the peer, as they were before encryption."""
    received_bytes: int = 0
    """Packets of the peer, decrypted."""
    handshakes: int = 0
    """Completed ones."""
    last_handshake_at: Instant | None = None
    last_rtt_ns: int | None = None
    """From an initiation of ours to the answer; the gateway, which answers, has none."""
    path: str = ""
    """PeerToPeer and the like; empty while there is none."""

    def add(self, other: ConnectionStatistics) -> None:
        """Adds the sums of a connection that has ended."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_report(self, now: Instant) -> dict[str, object]:
        """Returns it with figures for people, times in milliseconds and seconds."""
        told: dict[str, object] = {name: getattr(self, name) for name in _SUMS}
        told["sent"], told["received"] = readable_bytes(self.sent_bytes), readable_bytes(self.received_bytes)
        if self.last_handshake_at is not None:
            told["last_handshake_s_ago"] = round((now - self.last_handshake_at) / SECOND, 3)
        if self.last_rtt_ns is not None:
            told["last_handshake_rtt_ms"] = round(self.last_rtt_ns / MILLISECOND, 3)
        if self.path:
            told["path"] = self.path
        return told

    def add_stun(self, sent: int, message: int) -> None:
        """Notes a STUN message of so many bytes that left as so many: more of them if a relay sends it."""
        if sent > message:
            self.stun_relayed_bytes += sent
        else:
            self.stun_direct_bytes += sent


def path_kind(pair: Pair) -> str:
    """Returns the word for a path by who sends and who receives, as the original's gauge has it."""
    ours = "Relay" if pair.local.kind is CandidateKind.RELAY else "Peer"
    theirs = "Relay" if pair.remote.kind is CandidateKind.RELAY else "Peer"
    return f"{ours}To{theirs}"


def readable_bytes(count: int) -> str:
    """Returns a number of bytes for people: `1.50 MB`; a thousand of a unit are one of the next."""
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        del units[0]
    return f"{size:.2f} {units[0]}"
