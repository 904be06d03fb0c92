"""The packet that ends a connection: sent once through the tunnel, never acknowledged.

An IPv6 packet from :: to :: with next header 0xFF and eight bytes, of which the first says what happened.
"""

from __future__ import annotations

GOODBYE = bytes.fromhex("6000000000" + "08" + "ff" + "00") + bytes(32) + b"\x02" + bytes(7)
"""All 48 bytes of it."""


def is_goodbye(packet: bytes) -> bool:
    """Tells whether a packet out of the tunnel is the peer's goodbye."""
    return len(packet) >= 41 and packet[0] >> 4 == 6 and packet[6] == 0xFF and packet[8:40] == bytes(32) and packet[40] == 2
