"""The real portal service between a whole client and a whole gateway: all three machines, and only wires and clock are not real."""

from __future__ import annotations

import json
from typing import Any

from firezone.base.rng import SeededRng
from firezone.proto.portal.login import Upgrade
from firezone.proto.portal.outputs import Close, Send
from firezone.proto.portal.service import PortalService
from firezone.proto.tunnel_state import ConnectionChanged
from firezone.wire.phoenix import Push, decode_inbound, encode_frame
from firezone.wire.portal.shared import PublicKey
from tests.harness import packets
from tests.harness.roles import PORTAL_DELAY, ClientMember, GatewayMember, Member, ScriptedPortal, World
from tests.unit.proto.portal.bench import AGENTS, POLICY, MemoryStore, book

SERVER, PRINTER = "10.20.0.7", "10.30.7.9"


class ServicePortal(ScriptedPortal):
    """A portal service at the ends of the members' WebSockets."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.policy = POLICY
        self.store = MemoryStore()
        self.sockets: dict[int, Member] = {}
        self.next_number = 0
        self.start()

    def start(self) -> None:
        """Starts the service, anew with what its store kept."""
        clock = self.world.clock
        self.service = PortalService(book(self.policy), store=self.store, rng=SeededRng(7), now=clock.time, utc=clock.utc())
        self.world.at(0, self.work)

    def restart(self) -> None:
        members, self.sockets = list(self.sockets.values()), {}
        self.start()
        for member in members:
            self.login(member)

    def reload(self, old: str, new: str) -> None:
        assert old in self.policy
        self.policy = self.policy.replace(old, new, 1)
        self.service.handle_policy(book(self.policy), self.world.clock.time, self.world.clock.utc())
        self.deliver()

    def login(self, member: Member) -> None:
        for number in [number for number, other in self.sockets.items() if other is member]:
            self.service.handle_disconnected(number, self.world.clock.time)
            del self.sockets[number]
        role = "client" if isinstance(member, ClientMember) else "gateway"
        parameters = {
            "token": f"{role}-token", "external_id": member.id, "name": f"the {role}",
            "public_key": PublicKey(member.machine.public_key).to_text(),
        }  # fmt: skip
        upgrade = Upgrade(f"/{role}/websocket", parameters, AGENTS[role], member.outer.host)
        login = self.service.check_login(upgrade, self.world.clock.utc())
        self.next_number += 1
        self.sockets[self.next_number] = member
        self.service.handle_connected(self.next_number, login, self.world.clock.time, self.world.clock.utc())
        self.take(self.next_number, encode_frame(role, "phx_join", json.dumps(None).encode(), 0))

    def hear(self, member: Member, message: Any) -> None:
        event, payload = member.to_portal.encode(message)
        text = encode_frame("client" if isinstance(member, ClientMember) else "gateway", event, payload, 1)
        for number in [number for number, other in self.sockets.items() if other is member]:
            self.world.at(PORTAL_DELAY, lambda number=number: self.take(number, text))  # type: ignore[misc]

    def take(self, number: int, text: str) -> None:
        if number in self.sockets:
            self.service.handle_text(number, text, self.world.clock.time, self.world.clock.utc())
        self.deliver()

    def work(self) -> None:
        """Does what is due, and comes back for what will be."""
        clock = self.world.clock
        self.service.handle_timeout(clock.time, clock.utc())
        self.deliver()
        if (due := self.service.poll_timeout()) is not None:
            self.world.at(max(due[0] - clock.time, PORTAL_DELAY), self.work)

    def deliver(self) -> None:
        while (output := self.service.poll_output()) is not None:
            match output:
                case Send(number, text) if number in self.sockets:
                    inbound = decode_inbound(text)
                    if isinstance(inbound, Push):
                        self._push(self.sockets[number], inbound)
                case Close(number):
                    self.sockets.pop(number, None)

    def _push(self, member: Member, push: Push) -> None:
        message = member.from_portal.decode(push.event, push.payload)
        if push.event == "init":
            member.ipv4, member.ipv6 = message.interface.ipv4, message.interface.ipv6
        life = member.life
        self.world.at(PORTAL_DELAY, lambda: member.tell(message) if member.life == life else None)


def everybody() -> tuple[World, ServicePortal, ClientMember, GatewayMember]:
    world = World()
    portal = ServicePortal(world)
    world.portal = portal
    return world, portal, world.client(), world.gateway()


def arrives(world: World, client: ClientMember, gateway: GatewayMember, packet: bytes) -> bool:
    gateway.received()
    client.send(packet)
    world.run(1)
    return gateway.received() == [packet]


def to(client: ClientMember, server: str) -> bytes:
    return packets.tcp(str(client.ipv4), server, ports=(5000, 443))


def goodbyes(member: Member) -> int:
    return [event.detail for event in member.events_of(ConnectionChanged)].count("the peer said goodbye")


def test_a_packet_goes_there_and_back() -> None:
    world, _, client, gateway = everybody()
    assert arrives(world, client, gateway, to(client, SERVER))
    answer = packets.tcp(SERVER, str(client.ipv4), ports=(443, 5000))
    gateway.send(answer)
    assert client.received() == [answer]
    assert arrives(world, client, gateway, to(client, PRINTER)), "a second resource over the same connection"
    assert len(gateway.machine.node) == 1


def test_the_filters_of_the_policy_are_those_of_the_gateway() -> None:
    world, _, client, gateway = everybody()
    assert not arrives(world, client, gateway, packets.udp(str(client.ipv4), PRINTER, ports=(5000, 443)))
    assert client.intents() == [], "the client knows them too"
    assert arrives(world, client, gateway, packets.echo(str(client.ipv4), PRINTER))


def test_a_policy_that_is_taken_away_cuts_at_once() -> None:
    world, portal, client, gateway = everybody()
    assert arrives(world, client, gateway, to(client, SERVER))
    portal.reload('members = ["alice"]', "members = []")
    world.run(1)
    assert len(client.machine.node) == len(gateway.machine.node) == 0
    assert not arrives(world, client, gateway, to(client, SERVER))


def test_a_portal_that_restarts_disturbs_nobody() -> None:
    world, portal, client, gateway = everybody()
    assert arrives(world, client, gateway, to(client, SERVER))
    portal.restart()
    world.run(3)
    assert arrives(world, client, gateway, to(client, SERVER))
    assert goodbyes(client) == goodbyes(gateway) == 0
    assert len(client.intents()) == 1
    assert arrives(world, client, gateway, to(client, PRINTER))


def test_a_client_that_roams_comes_back() -> None:
    world, _, client, gateway = everybody()
    assert arrives(world, client, gateway, to(client, SERVER))
    client.call(client.machine.reset)
    world.run(0.5)
    assert arrives(world, client, gateway, to(client, SERVER))
    assert len(gateway.machine.node) == 1
