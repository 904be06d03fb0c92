"""Verdicts, reasons and column types shared by every compiled stage and by those who read their results.

The numbers are part of the contract with `csrc/fz_batch.h` and the stages in C; `tests/kernels/test_types.py` compares them.
"""

from __future__ import annotations

import enum

import numpy as np

PREFIX_SIZE = 128
"""Bytes of replaceable header per row: virtio-net header 10 + IPv6 40 + TCP 60 fit."""

SLOT_SIZE = 65_600
"""Bytes of one ring slot: a TUN read with its virtio-net header is up to 65 545."""

ADDRESS = np.dtype([("ip", "u1", (16,)), ("port", "u2"), ("family", "u1"), ("zero", "u1")])
"""One outer address, the layout of `fz_addr`: IPv4 in the first four bytes of `ip`; `family` 0 (unspecified), 4 or 6."""

RUN = np.dtype(
    [
        ("first", "i4"),
        ("last", "i4"),
        ("count", "u4"),
        ("stride", "u4"),
        ("total", "u4"),
        ("vnet", "u1", (10,)),
        ("zero", "u1", (2,)),
    ]
)
"""One run of rows that leaves in one system call, the layout of `fz_run`."""

ACTIVITY = np.dtype(
    [
        ("session", "i4"),
        ("peer", "i4"),
        ("sent", "u4"),
        ("received", "u4"),
        ("keepalives", "u4"),
        ("sent_bytes", "u8"),
        ("received_bytes", "u8"),
    ]
)
"""What one session sent and received on the batch path, the layout of `fz_activity`: packets, empty ones received apart; bytes
without overhead."""


class Verdict(enum.IntEnum):
    """What a stage decided for a row."""

    FREE = 0
    FORWARD = 1
    REPLY = 2
    DROP = 3
    PUNT = 4


class Reason(enum.IntEnum):
    """Why a row was dropped or punted. Below 64: drops. From 64: punts, worked off by a machine."""

    NONE = 0
    # cutting and parsing
    EMPTY = 1
    """A datagram without bytes."""
    OVERSIZED = 2
    """A datagram over 1316 bytes or a packet over 1280."""
    BAD_STRIDE = 3
    """A segment size of zero, above the length, or above 1316."""
    NO_LOCAL_ADDRESS = 4
    MALFORMED_PACKET = 5
    """An IP, TCP, UDP or ICMP header that does not parse or contradicts the length."""
    FRAGMENT = 6
    MALFORMED_OFFLOAD = 7
    """A virtio-net header that contradicts its packet."""
    BATCH_FULL = 8
    """No row left in the batch, or no room in the slab for a header in front of the packet and a tag behind it."""
    # transport
    UNKNOWN_SESSION = 16
    BAD_TAG = 17
    REPLAYED = 18
    EXPIRED_SESSION = 19
    COUNTER_EXHAUSTED = 20
    """A counter from REJECT_AFTER_MESSAGES on, ours or the peer's."""
    # admission
    NO_ROUTE = 24
    FOREIGN_SOURCE = 25
    FOREIGN_DESTINATION = 26
    NOT_PERMITTED = 27
    UNSUPPORTED_PROTOCOL = 28
    """A packet to a proxy IP that is neither TCP, UDP nor an ICMP echo: nothing tells its answers apart."""
    EXPIRED_NAT_SESSION = 29
    """A packet of a resource for a session that has ended."""
    NAT_EXHAUSTED = 30
    """No source port is free towards the real address, or no session may be added."""
    # sending
    NO_SOCKET = 32
    SEND_FAILED = 33
    SEND_QUEUE_FULL = 34
    TUN_REFUSED = 35
    PUNT_LIMIT = 36
    """More punted rows of one kind in one tick than a machine may be asked to look at."""
    # relaying
    NO_CHANNEL = 40
    """ChannelData on a channel that is not bound, or a datagram of a peer without one."""
    # punts: datagrams
    STUN = 64
    HANDSHAKE = 65
    """A WireGuard initiation, response or cookie reply."""
    UNKNOWN_DATAGRAM = 66
    CHANNEL_DATA = 67
    # punts: packets from TUN
    NO_PEER = 72
    """A route exists but no peer serves it yet: somebody must ask the portal."""
    NO_PATH = 73
    """The peer has no nominated path or no session to send on."""
    # punts: packets out of the tunnel
    CONTROL_PACKET = 80
    REFUSED_SOURCE = 81
    """The inner source address is not one the peer may use."""
    REFUSED_DESTINATION = 82
    """No resource of the peer covers the destination, or its filter denies the packet."""
    NO_TRANSLATION = 83
    """The destination is a proxy IP whose name has no address of its family, or that stands for no name."""
    # punts: datagrams to a relay
    PEER_DATA = 88
    """A datagram of a peer that has a permission but no channel."""


FIRST_PUNT = 64
"""Reasons from here on are punts."""
