"""What happens to members: they move, lose their link, die and return."""

from __future__ import annotations

from typing import Any

from tests.world.account import Edits
from tests.world.policy import SITES


class Happenings(Edits):
    """Transitions of hosts and networks."""

    def roam(self, client: int) -> None:
        member = self.system.clients[client]
        member.call(member.machine.reset)
        self.system.network.rebind(member.outer)
        self.system.run(0.5)
        self.reference.people[client].disturb()

    def restart_client(self, client: int) -> None:
        """Killed and started anew: it has forgotten all names, and is off the Internet until somebody says otherwise."""
        member, person = self.system.clients[client], self.reference.people[client]
        member.crash()
        self.system.start(member)
        member.call(member.machine.set_system_resolvers, list(person.resolvers))
        self.system.run(0.5)
        person.addresses.clear()
        person.is_internet_on = False
        person.disturb()
        person.is_blank = self.reference.is_portal_away

    def rebind(self, client: int) -> None:
        self.system.network.rebind(self.system.clients[client].outer)
        self.reference.people[client].disturb()

    def lose_link(self, client: int, duration: int) -> None:
        outer = self.system.clients[client].outer
        self.system.network.cut.add(outer)
        self.system.run(duration)
        self.system.network.cut.remove(outer)
        self.reference.people[client].disturb()

    def kill_gateway(self, site: str, place: int) -> None:
        self._end_gateway(site, place, in_order=False)

    def stop_gateway(self, site: str, place: int) -> None:
        self._end_gateway(site, place, in_order=True)

    def _end_gateway(self, site: str, place: int, *, in_order: bool) -> None:
        running, member = self.reference.gateways[site], self.system.gateways[site][place]
        if not running[place] or self.reference.is_portal_away:
            return
        member.stop() if in_order else member.crash()
        for number in [number for number, other in self.system.portal.sockets.items() if other is member]:
            del self.system.portal.sockets[number]
            self.system.portal.service.handle_disconnected(number, self.system.clock.time)
        self.system.portal.deliver()
        running[place] = False
        self.system.run(1)
        self.reference.disturb()

    def start_gateway(self, site: str, place: int) -> None:
        running, member = self.reference.gateways[site], self.system.gateways[site][place]
        if running[place] or self.reference.is_portal_away:
            return
        self.system.start(member)
        running[place] = True
        self.system.run(1)
        self.reference.disturb()

    def kill_relay(self, number: int) -> None:
        if self.reference.relays[number]:
            self.system.stop_relay(number)
            self._relays_changed(number, is_here=False)

    def start_relay(self, number: int) -> None:
        if not self.reference.relays[number]:
            self.system.start_relay(number)
            self._relays_changed(number, is_here=True)

    def restart_relay(self, number: int) -> None:
        """It has another secret and knows of no allocation."""
        if self.reference.relays[number]:
            self.system.stop_relay(number)
            self.system.run(1)
            self.system.start_relay(number)
            self._relays_changed(number, is_here=True)

    def _relays_changed(self, number: int, *, is_here: bool) -> None:
        self.reference.relays[number] = is_here
        self.system.run(3)
        self.reference.disturb()

    def portal_leaves(self) -> None:
        if not self.reference.is_portal_away:
            self.system.portal.leave()
            self.reference.is_portal_away = True
            self.system.run(0.5)

    def portal_comes_back(self) -> None:
        if self.reference.is_portal_away:
            self.reference.is_portal_away = False
            self.system.portal.come_back()
            for person in self.reference.people:
                person.is_blank = False
            self.edit()
            self.system.run(3)

    def wait(self, duration: int) -> None:
        self.system.run(duration)
        self.reference.disturb()  # Keys are renewed, and who was cut off may have given up.

    # drawing

    def some_gateway(self) -> list[Any] | None:
        site = self.rng.choice(SITES)
        return None if self.reference.is_portal_away else [site, self.rng.randrange(len(self.reference.gateways[site]))]
