"""Announcements of names that wait for their resolution: bounded in number and in time, one lookup per name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from firezone.base.timing import SECOND

if TYPE_CHECKING:
    from firezone.base.ids import ConnectionId, ResourceId
    from firezone.base.net import Address
    from firezone.base.timing import Instant

RESOLUTION_TIMEOUT = 10 * SECOND
"""Must stay below the 20 s that a client waits for its connection."""
MAX_WAITING = 1000
"""Announcements that wait; a further one is dropped without an answer, and its client repeats it."""
MAX_WAITING_PER_CLIENT = 250
"""Of one client: nobody takes all places."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One announcement, checked as far as it can be without addresses."""

    cid: ConnectionId
    resource: ResourceId
    domain: str
    """As the client wrote it."""
    proxies: tuple[Address, ...]


@dataclass(slots=True)
class Lookup:
    """One name that is being resolved."""

    deadline: Instant
    waiting: list[Waiting] = field(default_factory=list)


@dataclass(slots=True)
class Resolutions:
    """All lookups under way, the oldest first."""

    _lookups: dict[str, Lookup] = field(default_factory=dict)
    _count: dict[ConnectionId, int] = field(default_factory=dict)

    def add(self, name: str, waiting: Waiting, now: Instant) -> bool | None:
        """Lets an announcement wait for a name. True: a lookup must be started; None: there is no place."""
        mine = self._count.get(waiting.cid, 0)
        if mine >= MAX_WAITING_PER_CLIENT or sum(self._count.values()) >= MAX_WAITING:
            return None
        self._count[waiting.cid] = mine + 1
        lookup = self._lookups.get(name)
        is_new = lookup is None
        if lookup is None:
            lookup = self._lookups[name] = Lookup(now + RESOLUTION_TIMEOUT)
        lookup.waiting.append(waiting)
        return is_new

    def take(self, name: str) -> list[Waiting]:
        """Returns, and forgets, who waits for a name."""
        lookup = self._lookups.pop(name, None)
        waiting = [] if lookup is None else lookup.waiting
        for one in waiting:
            self._count[one.cid] -= 1
            if not self._count[one.cid]:
                del self._count[one.cid]
        return waiting

    def take_late(self, now: Instant) -> list[Waiting]:
        """Returns, and forgets, those whose time is up."""
        late = [name for name, lookup in self._lookups.items() if now >= lookup.deadline]
        return [waiting for name in late for waiting in self.take(name)]

    def deadline(self) -> Instant | None:
        """When the oldest lookup's time is up."""
        return next((lookup.deadline for lookup in self._lookups.values()), None)
