"""The path of a connection as its two programs have logged it, put together from both ends."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from firezone.lab.nat.kinds import Way
from firezone.lab.programs import read_records

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PATH_MESSAGE = "path chosen"
"""What client and gateway log whenever a connection has a path, with the members of `End`."""

_WORDS = {"host": "host", "srflx": "server-reflexive", "prflx": "peer-reflexive", "relay": "relayed"}


@dataclass(frozen=True, slots=True)
class End:
    """What one program says of its path."""

    local_kind: str
    """host, or relay when a relay of ours sends for us."""
    remote_kind: str
    """host, srflx, prflx or relay: how we learned the address of the peer that we send to."""
    endpoint: str
    """That address and its port."""
    relay: str | None = None
    """The relay that sends for us."""

    @property
    def remote(self) -> str:
        return self.endpoint.rpartition(":")[0].removeprefix("[").removesuffix("]")


@dataclass(frozen=True, slots=True)
class FoundPath:
    """The path as both ends see it."""

    client: str
    """How the client is reached: the kind of its address, in words."""
    gateway: str
    via: tuple[str, ...] = ()
    """The relays in between, from the client's to the gateway's."""

    @property
    def way(self) -> Way:
        if self.via:
            return Way.RELAYED
        return Way.HOST if self.client == self.gateway == "host" else Way.REFLEXIVE

    def __str__(self) -> str:
        ends = f"{self.client} ↔ {self.gateway}"
        return f"{ends} via {' and '.join(self.via)}" if self.via else ends

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "way": str(self.way)}


def last_end(log: Path) -> End | None:
    """Returns the path that the newest connection of a program takes; None while it has none."""
    if not log.exists():
        return None
    for record in reversed(read_records(log)):
        if record["message"] == PATH_MESSAGE:
            return End(record["localKind"], record["remoteKind"], record["remote"], record.get("relay"))
    return None


def join(client: End, gateway: End, own: Mapping[str, set[str]], relays: Mapping[str, str]) -> FoundPath:
    """Puts the two ends together.

    `own` has the addresses of client and gateway themselves: an address that is a peer's own is host, even when a check came before
    the line that announces it. `relays` has the names of relays by their addresses and by their ids.
    """
    ends = {"client": (client, gateway), "gateway": (gateway, client)}
    words, via = {}, []
    for name, (end, peer) in ends.items():
        # A relay's address is one whatever the peer calls it: a check from there may come before anybody has announced it.
        if end.local_kind == "relay" or peer.remote_kind == "relay" or peer.remote in relays:
            words[name] = _WORDS["relay"]
            via.append(relays.get(end.relay or "", relays.get(peer.remote, peer.remote)))
        elif peer.remote in own[name]:
            words[name] = _WORDS["host"]
        else:
            words[name] = _WORDS[peer.remote_kind]
    return FoundPath(words["client"], words["gateway"], tuple(dict.fromkeys(via)))
