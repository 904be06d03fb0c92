"""Every bound of the data path with its reason. A bound without a place here is a mistake."""

from __future__ import annotations

MAX_PACKET_SIZE = 1280
"""Largest IP packet in the tunnel: the TUN MTU, IPv6's minimum link MTU (RFC 8200 section 5)."""

WIREGUARD_OVERHEAD = 32
"""Type 4, receiver index 4, counter 8, tag 16."""

CHANNEL_OVERHEAD = 4
"""TURN channel-data header (RFC 8656 section 12.4)."""

MAX_DATAGRAM_SIZE = MAX_PACKET_SIZE + WIREGUARD_OVERHEAD + CHANNEL_OVERHEAD
"""Largest UDP payload ever sent or accepted: 1316."""

MAX_SEGMENTS = 64
"""Datagrams in one GSO send: the kernel's UDP_MAX_SEGMENTS of its first generation."""

MAX_SEGMENTS_PER_READ = 256
"""Segments of one TUN super-packet; more is refused as malformed."""

BATCH_ROWS = 2048
"""Rows of one batch: eight full super-packets of the smallest segments we accept."""

READS_PER_ROUND = 8
"""Super-packets or GRO trains taken from one source per round; more adds latency for the others, fewer adds interpreter time."""

RING_SLOTS = 64
"""Slots of an input ring, 4 MiB of slab: eight full rounds."""

MAX_PEERS = 65_536
"""Rows of peers in the session table: 5 MiB when all are taken. More than a gateway ever served by a factor of ten."""

SESSIONS_PER_PEER = 8
"""Sessions a peer may have at once, as in the original: those being rekeyed away from and those not yet confirmed."""

MAX_SESSIONS = MAX_PEERS * SESSIONS_PER_PEER
"""Sessions of the table, 1.2 KiB each: 600 MiB, reached only by peers that all rekey without end."""

MAX_ALLOCATIONS = 65_536
"""Allocations of one relay, at 16 KiB each at most: 1 GiB. The port range (16 384 by default) ends before it does."""

MAX_ALLOCATIONS_PER_ADDRESS = 4_096
"""Allocations of one client address: a quarter of the default range, so one address cannot take the relay away from all others,
and an office or a carrier's NAT with thousands of users behind it still fits."""

MAX_CHANNELS_PER_ALLOCATION = 4_096
"""All channel numbers there are: a gateway binds one per candidate of each of its clients."""

MAX_CHANNELS = 262_144
"""Channels of one relay, cooling ones included: 16 per allocation of the default range, four times what the original's kernel
tables hold."""

MAX_PERMISSIONS_PER_ALLOCATION = 256
"""Addresses a stand-alone relay lets through to one allocation. Ordinary clients ask for one per candidate of their peer."""

MAX_PERMISSIONS = 262_144
"""Permissions of one relay that were asked for, 0.4 KiB each: 100 MiB. As many as channels, each of which brings one more."""

MAX_NONCE_CLIENTS = 65_536
"""Client addresses whose nonce's uses the relay counts, 0.3 KiB each: 20 MiB. Only one that answered a challenge gets a row."""

MAX_RELAY_WAITING_BYTES = 64 << 20
"""Bytes that wait for full sockets of one relay, all together; one socket has a bound of its own. Nothing waits longer than 20 ms,
in which 10 Gbit/s bring 25 MiB, so it takes a flood to thousands of full sockets to get there; then the newcomer's oldest go."""

MAX_RELAY_REPLIES = 4_096
"""Answers a relay's machine keeps for its sockets, 0.5 KiB each. Ticks of 2048 rows never fill it; then the oldest goes, as on a
full socket, and its client asks again."""
