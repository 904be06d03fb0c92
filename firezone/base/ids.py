"""Identifiers that look alike and must not be swapped. All UUIDs are lower-case text."""

from __future__ import annotations

from typing import NewType

ConnectionId = NewType("ConnectionId", str)
"""UUID of the peer as the portal names it: a gateway id at the client, a client id at the gateway."""

ClientId = NewType("ClientId", str)
GatewayId = NewType("GatewayId", str)
ResourceId = NewType("ResourceId", str)
SiteId = NewType("SiteId", str)
RelayId = NewType("RelayId", str)

ReceiverIndex = NewType("ReceiverIndex", int)
"""The 32-bit number by which a WireGuard message finds its session."""

PeerRow = NewType("PeerRow", int)
"""Row of a peer in the compiled tables."""

NatClient = NewType("NatClient", int)
"""Number of a client in the compiled NAT; unlike its row it outlives the connection."""

SessionSlot = NewType("SessionSlot", int)
"""Slot of a session in the compiled session table."""

SocketId = NewType("SocketId", int)
"""Number of an outer socket; survives the replacement of its descriptor."""
