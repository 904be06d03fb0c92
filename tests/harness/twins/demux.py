"""What cutting and demultiplexing decide, for one read."""

from __future__ import annotations

from firezone.kernels.types import Reason

HANDSHAKE_SIZES = {1: 148, 2: 92, 3: 64}
MAX_DATAGRAM = 1316


def kind(datagram: bytes) -> Reason:
    """NONE for WireGuard data, else the reason of the punt."""
    wireguard_type = datagram[0] if datagram[1:4] == bytes(3) else 0
    if wireguard_type == 4 and len(datagram) >= 32:
        return Reason.NONE
    if HANDSHAKE_SIZES.get(wireguard_type) == len(datagram):
        return Reason.HANDSHAKE
    if len(datagram) >= 20 and datagram[0] < 4 and datagram[4:8] == bytes.fromhex("2112a442"):
        return Reason.STUN
    if 0x40 <= datagram[0] <= 0x4F:
        return Reason.CHANNEL_DATA
    return Reason.UNKNOWN_DATAGRAM


def cut(data: bytes, stride: int, has_local: bool) -> list[tuple[bytes, Reason]]:
    """The datagrams of one read and what they are; one empty row with the reason when it cannot be cut."""
    refused = Reason.NONE
    if not data:
        refused = Reason.EMPTY
    elif not has_local:
        refused = Reason.NO_LOCAL_ADDRESS
    elif stride == 0 or stride > len(data):
        refused = Reason.BAD_STRIDE
    elif stride > MAX_DATAGRAM:
        refused = Reason.OVERSIZED if stride == len(data) else Reason.BAD_STRIDE
    if refused:
        return [(b"", refused)]
    return [(data[at : at + stride], kind(data[at : at + stride])) for at in range(0, len(data), stride)]
