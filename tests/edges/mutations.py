"""Bugs that were real, put back: changes of one machine each, to do with paths, time and what is left over.

Each takes pytest's monkeypatch and makes the change; `tests/world` keeps those of names and policies. What takes a rare
coincidence is looked for where it is less rare: among steps of a few kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from firezone.loop.engine import Engine
from firezone.proto.client.state import ClientState
from firezone.proto.gateway.client_on_gateway import ClientOnGateway
from firezone.proto.gateway.state import GatewayState
from firezone.proto.noise.peer import Peer
from firezone.proto.portal.flows import Flows
from firezone.proto.relay.server import RelayServer
from firezone.proto.snownet.node import Node
from firezone.proto.turn.allocation import Allocation

if TYPE_CHECKING:
    import pytest


def gateway_kept(patch: pytest.MonkeyPatch) -> None:
    """Client 17.9: which gateway serves a resource is not forgotten with its connection."""
    patch.setattr(ClientState, "_on_gone", lambda self, cid, now: self._set_filter(cid, None))


def expiry_ignored(patch: pytest.MonkeyPatch) -> None:
    """Gateway 18: a grant outlives its end."""
    patch.setattr(ClientOnGateway, "expire", lambda self, utc: [])


def refused_kept(patch: pytest.MonkeyPatch) -> None:
    """Gateway 18: access that is taken away stays."""
    patch.setattr(GatewayState, "_revoke", lambda *_: None)


def channels_left_behind(patch: pytest.MonkeyPatch) -> None:
    """Relay 19.9: an allocation that is deleted leaves its channels in the table."""
    delete = RelayServer._delete

    def leave(self: RelayServer, lease: Any) -> None:
        for channel in lease.channels.values():
            self._timers.cancel(channel)
        lease.channels.clear()
        delete(self, lease)

    patch.setattr(RelayServer, "_delete", leave)


def grants_untold(patch: pytest.MonkeyPatch) -> None:
    """Portal 12: a policy that is gone leaves the grants it gave."""
    patch.setattr(Flows, "reconcile", lambda self, utc, only=None: {})


def terms_not_compared(patch: pytest.MonkeyPatch) -> None:
    """Snownet 15.4: a peer that comes back on other terms gets the connection of the former ones."""
    upsert = Node.upsert_connection

    def keep(self: Node, cid: Any, *terms: Any) -> None:
        if self._connections.get(cid) is None:
            upsert(self, cid, *terms)

    patch.setattr(Node, "upsert_connection", keep)


def nonce_not_taken(patch: pytest.MonkeyPatch) -> None:
    """Snownet 15.4: a relay's challenge is answered with what it has refused, over and over."""
    patch.setattr(Allocation, "_handle_challenge", lambda self, request, code, received, now: self._repeat(request, now))


def sessions_not_renewed(patch: pytest.MonkeyPatch) -> None:
    """Noise: a session is never made anew, neither by age nor by want of one."""
    patch.setattr(Peer, "_maybe_rekey", lambda self, now, utc: None)
    patch.setattr(Peer, "_want_session", lambda self, now, utc: None)


def timer_not_cleared(patch: pytest.MonkeyPatch) -> None:
    """Event loop 13.6: a timer that has fired stays armed: 100 % CPU."""
    rearm = Engine._rearm

    def keep(self: Engine) -> None:
        former = self.deadline
        rearm(self)
        if former is not None and former <= self.clock.now():
            self.deadline = former

    patch.setattr(Engine, "_rearm", keep)


def outputs_wait_for_a_timer(patch: pytest.MonkeyPatch) -> None:
    """Snownet 15.4: what an input made the machine want waits for an unrelated timer."""
    patch.setattr(Engine, "touch", lambda self: False)


MUTATIONS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    made.__name__: made
    for made in (
        gateway_kept, expiry_ignored, refused_kept, channels_left_behind, grants_untold, terms_not_compared, nonce_not_taken,
        sessions_not_renewed, timer_not_cleared, outputs_wait_for_a_timer,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Search:
    """Where a mutation is looked for: in a few worlds from `seed` on."""

    seed: int = 0
    steps: int = 150
    kinds: tuple[str, ...] = ()
    """All, if none are named."""


SEARCHES: dict[str, Search] = {
    "expiry_ignored": Search(seed=1),
    "refused_kept": Search(seed=4),
    "grants_untold": Search(seed=1),
    "sessions_not_renewed": Search(steps=30, kinds=("send", "idle", "pause")),
}
"""Those that are not found in the first worlds as they come."""
