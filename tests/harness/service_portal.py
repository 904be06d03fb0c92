"""The real portal service at the ends of the members' WebSockets, in the world of `tests.harness.roles`."""

from __future__ import annotations

import json
from typing import Any

from firezone.base.rng import SeededRng
from firezone.proto.portal.login import Upgrade
from firezone.proto.portal.outputs import Close, Send
from firezone.proto.portal.service import PortalService
from firezone.wire.phoenix import Push, decode_inbound, encode_frame
from firezone.wire.portal.shared import PublicKey
from tests.harness.roles import PORTAL_DELAY, ClientMember, Member, ScriptedPortal, World
from tests.unit.proto.portal.bench import AGENTS, POLICY, MemoryStore, book


class ServicePortal(ScriptedPortal):
    """A portal service at the ends of the members' WebSockets."""

    def __init__(self, world: World, policy: str = POLICY) -> None:
        super().__init__(world)
        self.policy = policy
        self.store = MemoryStore()
        self.tokens: dict[str, str] = {}
        """Of members that do not log in with the token of their role."""
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
        self.edit(self.policy.replace(old, new, 1))

    def edit(self, policy: str) -> None:
        """Puts another policy into force."""
        self.policy = policy
        self.service.handle_policy(book(policy), self.world.clock.time, self.world.clock.utc())
        self.deliver()

    def login(self, member: Member) -> None:
        for number in [number for number, other in self.sockets.items() if other is member]:
            self.service.handle_disconnected(number, self.world.clock.time)
            del self.sockets[number]
        role = "client" if isinstance(member, ClientMember) else "gateway"
        parameters = {
            "token": self.tokens.get(member.id, f"{role}-token"), "external_id": member.id, "name": f"the {role}",
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
