"""The relays the portal gave us, and the addresses of former ones. The TURN client builds upon this."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from firezone.base.ids import RelayId
from firezone.base.net import Endpoint
from firezone.base.rng import Rng, below
from firezone.wire import stun

RELAY_PORT = 3478
"""Relays listen here and nowhere else; their datagrams are recognised by it."""
MAX_FORMER_ADDRESSES = 64
"""Addresses of relays we left that are remembered, to tell their late answers from a peer whose NAT gave it the same port."""


@dataclass(frozen=True, slots=True)
class Relay:
    """One TURN server with the credentials for it."""

    id: RelayId
    ipv4: Endpoint | None
    ipv6: Endpoint | None
    username: str
    password: str = field(repr=False)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(endpoint for endpoint in (self.ipv4, self.ipv6) if endpoint is not None)


class RelayBook:
    """Known relays by id."""

    def __init__(self) -> None:
        self._relays: dict[RelayId, Relay] = {}
        self._former: dict[bytes, None] = {}

    def __contains__(self, relay: RelayId) -> bool:
        return relay in self._relays

    def __len__(self) -> int:
        return len(self._relays)

    def update(self, remove: Iterable[RelayId], add: Iterable[Relay]) -> None:
        """Forgets some relays and takes others, replacing those of the same id."""
        for relay_id in remove:
            self._forget(relay_id)
        for relay in add:
            if self._relays.get(relay.id) != relay:
                self._forget(relay.id)
            self._relays[relay.id] = relay

    def sample(self, rng: Rng) -> RelayId | None:
        """Returns a random relay, healthy or not; None if there is none."""
        return list(self._relays)[below(rng, len(self._relays))] if self._relays else None

    def is_relay_traffic(self, remote: Endpoint, datagram: bytes) -> bool:
        """Tells whether a datagram is STUN or channel data of a relay, present or former, and so never a peer's."""
        if remote.port != RELAY_PORT or not datagram:
            return False
        is_known = any(remote in relay.endpoints for relay in self._relays.values())
        if not is_known and remote.ip not in self._former:
            return False
        is_channel = 0x40 <= datagram[0] <= 0x4F and len(datagram) >= 4 and datagram[2:4] == (len(datagram) - 4).to_bytes(2, "big")
        return is_channel or stun.is_stun(datagram)

    def _forget(self, relay_id: RelayId) -> None:
        relay = self._relays.pop(relay_id, None)
        if relay is None:
            return
        for endpoint in relay.endpoints:
            self._former[endpoint.ip] = None
        while len(self._former) > MAX_FORMER_ADDRESSES:
            del self._former[next(iter(self._former))]
