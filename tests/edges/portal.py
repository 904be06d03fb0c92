"""The portal of a world: the real service over sockets in name only, and the programs' side of their logins.

    program ─ hear ▸ delay ▸ PortalService ▸ delay ▸ take ─ program

A link is a WebSocket. It can be lost and is made again by whoever lost it; while the portal is away, nobody gets one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from firezone.base.rng import SeededRng
from firezone.base.secret import SecretText
from firezone.base.timing import MILLISECOND, SECOND
from firezone.proto.portal.config import read_policy
from firezone.proto.portal.login import LoginRejected, Upgrade
from firezone.proto.portal.outputs import Close, Notice, Send
from firezone.proto.portal.service import PortalService
from firezone.wire.phoenix import Push, decode_inbound, encode_frame
from tests.unit.proto.portal.bench import AGENTS, MemoryStore

if TYPE_CHECKING:
    from tests.edges.world import World

DELAY = 20 * MILLISECOND
RETRY = 500 * MILLISECOND
"""How long a program waits before it logs in again."""
HEARTBEAT_EVERY = 30 * SECOND


class Peer(Protocol):
    """Who logs in: a client, a gateway or a relay."""

    role: str
    life: int
    is_alive: bool

    def login(self) -> tuple[dict[str, str], str]: ...
    def join(self) -> object: ...
    def on_linked(self) -> None: ...
    def on_unlinked(self) -> None: ...
    def take(self, push: Push) -> None: ...


class WorldPortal:
    """One account, its policy, and everybody's links."""

    def __init__(self, world: World, document: dict[str, Any]) -> None:
        self.world = world
        self.document = document
        self.store = MemoryStore()
        self.links: dict[int, Peer] = {}
        self._number = 0
        self._starts = 0
        self._beat: dict[int, int] = {}
        self.is_away = False
        self.rejected = 0
        self._wake_at: int | None = None
        self.start()

    # faults and edits

    def start(self) -> None:
        """Starts the service, anew with what its store kept."""
        clock = self.world.clock
        self._starts += 1
        self.service = PortalService(
            read_policy(self.document, _zone), store=self.store, rng=SeededRng(self._starts), now=clock.time, utc=clock.utc()
        )
        self.work()

    def restart(self) -> None:
        """Is killed and started; whoever had a link notices and comes back."""
        self._cut(list(self.links))
        self.start()

    def leave(self) -> None:
        self.is_away = True
        self._cut(list(self.links))

    def come_back(self) -> None:
        self.is_away = False

    def edit(self, document: dict[str, Any]) -> None:
        """The administrator saves another policy."""
        self.document = document
        clock = self.world.clock
        self.service.handle_policy(read_policy(document, _zone), clock.time, clock.utc())
        self._deliver()
        self._arm()

    def unlink(self, peer: Peer, *, is_leaving: bool = False) -> None:
        """A peer's link breaks; it makes another unless it leaves itself."""
        self._cut([number for number, other in self.links.items() if other is peer], is_leaving=is_leaving)

    def number_of(self, peer: Peer) -> int | None:
        return next((number for number, other in self.links.items() if other is peer), None)

    def _cut(self, numbers: list[int], *, is_leaving: bool = False) -> None:
        for number in numbers:
            peer = self.links.pop(number)
            self.service.handle_disconnected(number, self.world.clock.time)
            if not is_leaving:
                peer.on_unlinked()
                self.log_in_soon(peer)
        self._deliver()
        self._arm()

    # the peers' side

    def log_in_soon(self, peer: Peer, delay: int = RETRY) -> None:
        life = peer.life
        self.world.at(delay, lambda: self._log_in(peer) if peer.is_alive and peer.life == life else None)

    def _log_in(self, peer: Peer) -> None:
        if self.number_of(peer) is not None:
            return
        if self.is_away:
            self.log_in_soon(peer)
            return
        parameters, address = peer.login()
        upgrade = Upgrade(f"/{peer.role}/websocket", parameters, AGENTS[peer.role], address)
        clock = self.world.clock
        try:
            login = self.service.check_login(upgrade, clock.utc())
        except LoginRejected:
            self.rejected += 1
            self.log_in_soon(peer, 5 * SECOND)
            return
        self._number += 1
        number = self._number
        self.links[number] = peer
        self._beat[number] = clock.time
        self.service.handle_connected(number, login, clock.time, clock.utc())
        peer.on_linked()
        self._say(number, "phx_join", peer.join())

    def hear(self, peer: Peer, event: str, payload: bytes) -> None:
        """Takes a message of a peer; without a link it is lost."""
        number = self.number_of(peer)
        if number is not None:
            text = encode_frame(peer.role, event, payload, 1)
            self.world.at(DELAY, lambda: self._take(number, text))

    def _say(self, number: int, event: str, payload: object) -> None:
        self._take(number, encode_frame(self.links[number].role, event, json.dumps(payload).encode(), 0))

    def _take(self, number: int, text: str) -> None:
        if number in self.links:
            self.service.handle_text(number, text, self.world.clock.time, self.world.clock.utc())
        self._deliver()
        self._arm()

    # time and outputs

    def work(self) -> None:
        """Does what is due, after the heartbeats of those who would have sent one."""
        clock = self.world.clock
        for number in list(self.links):
            if clock.time - self._beat[number] >= HEARTBEAT_EVERY - SECOND:
                self._beat[number] = clock.time
                beat = encode_frame("phoenix", "heartbeat", b"{}", 2)
                self.service.handle_text(number, beat, clock.time, clock.utc())
        self.service.handle_timeout(clock.time, clock.utc())
        self._deliver()
        self._arm()

    def _arm(self) -> None:
        due = self.service.poll_timeout()
        beat = min((self._beat[number] + HEARTBEAT_EVERY for number in self.links), default=None)
        wanted = [deadline for deadline in (due[0] if due else None, beat) if deadline is not None]
        if not wanted:
            return
        at = max(min(wanted), self.world.clock.time + MILLISECOND)
        if self._wake_at is not None and self.world.clock.time < self._wake_at <= at:
            return
        self._wake_at = at
        self.world.at(at - self.world.clock.time, lambda: self._wake(at))

    def _wake(self, at: int) -> None:
        if self._wake_at == at:
            self._wake_at = None
            self.work()

    def _deliver(self) -> None:
        while (output := self.service.poll_output()) is not None:
            match output:
                case Send(number, text):
                    if number in self.links:
                        self._push(self.links[number], number, text)
                case Close(number):
                    peer = self.links.pop(number, None)
                    if peer is not None:
                        self.service.handle_disconnected(number, self.world.clock.time)
                        peer.on_unlinked()
                        self.log_in_soon(peer)
                case Notice():
                    pass

    def _push(self, peer: Peer, number: int, text: str | bytes) -> None:
        inbound = decode_inbound(text)
        if isinstance(inbound, Push):
            self.world.at(DELAY, lambda: peer.take(inbound) if self.links.get(number) is peer else None)


def secret_of(number: int) -> SecretText:
    """A relay's stamp secret, in 64 hex digits."""
    return SecretText(f"{number:064x}")


def _zone(name: str) -> Any:
    raise KeyError(name)
