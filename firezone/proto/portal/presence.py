"""Who is connected, which versions fit, and which gateway serves.

Source: portal protocol sections 9.8, 9.9, 9.15.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from firezone.base.rng import Rng, below
from firezone.base.timing import Instant
from firezone.proto.portal.dialect import Dialect, Version
from firezone.proto.portal.model import Device, Role, Token
from firezone.proto.portal.relays import RelayNews

IDLE_TIMEOUT_S = {Role.CLIENT: 307, Role.GATEWAY: 37}
"""A device that said nothing for this long is gone; any frame counts."""


@dataclass(slots=True, eq=False)
class Connection:
    """One WebSocket of one device."""

    number: int
    device: Device
    token: Token
    dialect: Dialect
    heard_at: Instant
    is_joined: bool = False
    told: dict[str, Any] = field(default_factory=dict)
    """Resources as this client was told of them, by id."""
    relays: RelayNews = field(default_factory=RelayNews)

    @property
    def topic(self) -> str:
        return self.device.role.value

    @property
    def idle_at(self) -> Instant:
        return self.heard_at + IDLE_TIMEOUT_S[self.device.role] * 1_000_000_000


class Presence:
    """The connections, by number and by device. A device has at most one."""

    def __init__(self) -> None:
        self._by_number: dict[int, Connection] = {}
        self._by_device: dict[str, Connection] = {}

    def add(self, connection: Connection) -> None:
        self._by_number[connection.number] = connection
        self._by_device[connection.device.id] = connection

    def remove(self, number: int) -> Connection | None:
        connection = self._by_number.pop(number, None)
        if connection is not None and self._by_device.get(connection.device.id) is connection:
            del self._by_device[connection.device.id]
        return connection

    def get(self, number: int) -> Connection | None:
        return self._by_number.get(number)

    def of_device(self, device_id: str) -> Connection | None:
        """Returns the connection of a device, joined or not."""
        return self._by_device.get(device_id)

    def joined(self, device_id: str, role: Role) -> Connection | None:
        """Returns the connection of a device of this role that has joined."""
        connection = self._by_device.get(device_id)
        return connection if connection is not None and connection.is_joined and connection.device.role is role else None

    def all(self, role: Role | None = None) -> list[Connection]:
        return [connection for connection in self._by_number.values() if role in (None, connection.device.role)]


def is_compatible(ours: Version | None, theirs: Version | None) -> bool:
    """Tells whether a gateway of the second version may serve a client of the first: same major, at most one minor apart."""
    return ours is not None and theirs is not None and ours[0] == theirs[0] and ours[1] - 1 <= theirs[1] <= ours[1] + 1


def pick_gateway(gateways: Sequence[Connection], connected_ids: Iterable[str], rng: Rng) -> Connection:
    """Chooses among online gateways: one the client is connected to already, else any. `gateways` is not empty."""
    wanted = set(connected_ids)
    connected = [gateway for gateway in gateways if gateway.device.id in wanted]
    candidates = sorted(connected or gateways, key=lambda gateway: gateway.device.id)
    return candidates[below(rng, len(candidates))]
