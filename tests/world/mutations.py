"""Bugs that were real, put back: small changes of one machine each that a walk must find.

Each takes pytest's monkeypatch and makes the change; its name and its first line say what the bug was.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from firezone.base.errors import RemoteError
from firezone.base.net import Endpoint
from firezone.datapath.tables import Tables
from firezone.loop.engine import Engine
from firezone.proto.client.name_service import NameService
from firezone.proto.client.names import Names
from firezone.proto.client.state import ClientState
from firezone.proto.gateway import filter_set
from firezone.proto.noise.peer import Peer
from firezone.proto.portal.flows import Flows
from firezone.proto.relay.server import RelayServer
from firezone.proto.snownet.node import Node
from firezone.proto.turn.allocation import Allocation
from firezone.proto.updates import PeerFilterSet
from firezone.wire.stun import Attribute

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from firezone.base.timing import Instant


def foreign_sources(patch: pytest.MonkeyPatch) -> None:
    """Client 17.9: packets with a foreign source leave for the gateway."""
    apply = Tables.apply

    def apply_any_source(self: Tables, update: Any) -> None:
        # The gateway's filters have rules, the client's have none.
        if isinstance(update, PeerFilterSet) and update.rules is None:
            update = dataclasses.replace(update, local=None)
        apply(self, update)

    patch.setattr(Tables, "apply", apply_any_source)
    patch.setattr(ClientState, "_is_admissible", lambda self, header: not header.destination.is_multicast)


def names_numbered_anew(patch: pytest.MonkeyPatch) -> None:
    """Client 8.7, 11: names get other addresses after a reset."""
    reset = ClientState.reset

    def forget_names(self: ClientState, now: Instant) -> None:
        reset(self, now)
        self._dns.resolver.proxies._blocks.clear()

    patch.setattr(ClientState, "reset", forget_names)


def host_resolvers_tunnelled(patch: pytest.MonkeyPatch) -> None:
    """Client 17.9: system resolvers are asked through the tunnel once a resource covers them."""
    patch.setattr(NameService, "is_portal_defined", property(lambda self: True))


def private_networks_opened(patch: pytest.MonkeyPatch) -> None:
    """Gateway 18: the Internet resource opens the gateway's own network."""
    patch.setattr(filter_set, "NOT_INTERNET", ())


def set_up_without_names(patch: pytest.MonkeyPatch) -> None:
    """Client 9.3: a name that is asked for by another type first is announced without its addresses, and never again."""
    patch.setattr(Names, "to_announce", _announce_any)


def _announce_any(self: Names, name: str) -> Any:
    resources = dict.fromkeys(resource.id for version in (4, 6) for resource in self.candidates(name, version))
    return ((cid, resource) for resource in resources if (cid := self._gateways.of(resource)) is not None)


def connection_kept(patch: pytest.MonkeyPatch) -> None:
    """Snownet 15: a peer that comes back with another key is taken for the one that is known."""
    upsert = Node.upsert_connection

    def keep(self: Node, cid: Any, *terms: Any) -> None:
        if self._connections.get(cid) is None:
            upsert(self, cid, *terms)

    patch.setattr(Node, "upsert_connection", keep)


def nonce_ignored(patch: pytest.MonkeyPatch) -> None:
    """Snownet 15.4: a refusal is final, the nonce it brings is not used."""
    patch.setattr(Allocation, "_handle_challenge", lambda self, request, code, received, now: self._handle_refusal(request, now))


def renewals_refused(patch: pytest.MonkeyPatch) -> None:
    """WireGuard: whoever has a session takes every further initiation for a replay."""
    handle = Peer.handle_initiation

    def refuse(self: Peer, received: Any, now: Instant) -> None:
        if self.has_session:
            raise RemoteError("An initiation while there is a session.")
        handle(self, received, now)

    patch.setattr(Peer, "handle_initiation", refuse)


def one_channel_per_client(patch: pytest.MonkeyPatch) -> None:
    """Relay: whatever a client binds after its first channel is granted and leads nowhere."""
    bind = RelayServer._bind

    def bind_first(self: RelayServer, client: Endpoint, request: Any, now: Instant) -> int | None:
        refused = bind(self, client, request, now)
        allocation, number = self._allocations.of_client(client), request.get(Attribute.CHANNEL_NUMBER)
        if refused is None and allocation is not None and next(iter(allocation.channels)) != number:
            self._store.unbind(client, number)
        return refused

    patch.setattr(RelayServer, "_bind", bind_first)


def revocations_untold(patch: pytest.MonkeyPatch) -> None:
    """Portal 9.14: the gateway does not hear that a grant has ended."""
    patch.setattr(Flows, "_reject", lambda self, grant, serving: None)


def activity_unheard(patch: pytest.MonkeyPatch) -> None:
    """Engine: the machine is not told what the compiled path has sent and received, so nothing renews its keys in time."""
    patch.setattr(Engine, "_report_activity", lambda self, now: setattr(self, "_report_at", None))


MUTATIONS: dict[Callable[[pytest.MonkeyPatch], None], int] = {
    foreign_sources: 1,
    names_numbered_anew: 2,
    host_resolvers_tunnelled: 1,
    set_up_without_names: 3,
    private_networks_opened: 1,
    connection_kept: 10,
    nonce_ignored: 10,
    renewals_refused: 3,
    one_channel_per_client: 10,
    revocations_untold: 3,
    activity_unheard: 5,
}
"""Each, and the first of the worlds to look for it in."""
