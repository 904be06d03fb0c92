"""A walk: steps drawn by weight from what the reference allows, applied to reference and system alike, and checked."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from firezone.proto.client.state import ResourcesUpdated, TunConfig
from tests.world.happenings import Happenings
from tests.world.policy import POOL
from tests.world.reference import new_reference
from tests.world.system import System, needs_relay
from tests.world.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness.roles import Member
    from tests.world.base import Step
    from tests.world.reference import Person

KEPT_PROBES, KEPT_EVENTS = 200, 50
"""Older ones are forgotten: a walk may be a million steps long."""


class Walk(Traffic, Happenings):
    """One world and its steps. `seed` decides what the world is like; the steps are drawn by `propose` or come from a file."""

    def __init__(self, seed: int, *, keeps_steps: bool = True) -> None:
        self.seed = seed
        self.rng = random.Random(f"steps {seed}")
        self.steps: list[Step] = []
        self._keeps_steps = keeps_steps
        self.reference = new_reference(needs_relay(seed))
        self._start_with(random.Random(f"account {seed}"))
        self.system = System(seed, self.reference.account)
        for client, person in enumerate(self.reference.people):
            self.set_resolvers(client, list(person.resolvers))
        someone, some_relay = (lambda: [self.rng.randrange(2)]), (lambda: [self.rng.randrange(2)])
        self._transitions: dict[str, tuple[int, Callable[..., None], Callable[[], list[Any] | None]]] = {
            "send": (50, self.send, self.some_packet),
            "send_to_name": (30, self.send_to_name, self.some_named_packet),
            "send_from_elsewhere": (2, self.send_from_elsewhere, self.some_packet),
            "ask": (15, self.ask, self.some_question),
            "add_resource": (5, self.add_resource, self.some_missing_resource),
            "remove_resource": (2, self.remove_resource, self.some_resource),
            "change_filters": (2, self.change_filters, self.some_filters),
            "move_resource": (1, self.move_resource, self.some_move),
            "grant": (3, self.grant, self.some_grant),
            "revoke": (2, self.revoke, self.some_grant),
            "set_upstream": (1, self.set_upstream, self.some_upstream),
            "set_resolvers": (1, self.set_resolvers, self.some_resolvers),
            "switch_internet": (2, self.switch_internet, someone),
            "roam": (2, self.roam, someone),
            "restart_client": (1, self.restart_client, someone),
            "rebind": (2, self.rebind, someone),
            "lose_link": (1, self.lose_link, lambda: [self.rng.randrange(2), self.rng.choice([1, 5, 20])]),
            "kill_gateway": (1, self.kill_gateway, self.some_gateway),
            "stop_gateway": (1, self.stop_gateway, self.some_gateway),
            "start_gateway": (3, self.start_gateway, self.some_gateway),
            "kill_relay": (1, self.kill_relay, some_relay),
            "start_relay": (3, self.start_relay, some_relay),
            "restart_relay": (1, self.restart_relay, some_relay),
            "portal_leaves": (1, self.portal_leaves, list),
            "portal_comes_back": (4, self.portal_comes_back, list),
            "wait": (2, self.wait, lambda: [self.rng.choice([1, 30, 200, 700])]),
        }

    def _start_with(self, rng: random.Random) -> None:
        account = self.reference.account
        for resource in rng.sample(POOL, 5):
            account.resources[resource.number] = resource
            account.granted |= {(person.user, resource.number) for person in self.reference.people if rng.random() < 0.8}

    # walking

    def propose(self) -> Step:
        """Draws a step that makes sense now."""
        while True:
            name = self.rng.choices(list(self._transitions), [weight for weight, _, _ in self._transitions.values()])[0]
            arguments = self._transitions[name][2]()
            if arguments is not None:
                return name, arguments

    def apply(self, step: Step) -> None:
        """Does a step, which changes nothing where it makes no sense, and checks. Raises WorldError or what a machine raises."""
        if self._keeps_steps:
            self.steps.append(step)
        name, arguments = step
        self._transitions[name][1](*arguments)
        self.check()

    def check(self) -> None:
        """What must hold after every step."""
        self._forget_probes()
        for number, person in enumerate(self.reference.people):
            self._check_client(number, person)
        self._check_gateways()
        self._check_deadlines()

    def _forget_probes(self) -> None:
        while len(self.system.probes) > KEPT_PROBES:
            del self.system.probes[next(iter(self.system.probes))]

    def _check_client(self, number: int, person: Person) -> None:
        member = self.system.clients[number]
        if self.reference.is_portal_away:
            return  # What it shows is the account as it was.
        configs, lists = member.events_of(TunConfig), member.events_of(ResourcesUpdated)
        if configs:
            found = {str(route) for route in configs[-1].routes}
            sentinels, servers = configs[-1].dns_servers, self.reference.servers(person)
            self.expect(len(sentinels) == len(servers), f"{person.user} asks {sentinels}, which should stand for {servers}")
            self.expect(
                found == self.reference.routes(person), f"{person.user} routes {found}, not {self.reference.routes(person)}"
            )
        if lists:
            shown = {str(view.id) for view in lists[-1].resources}
            wanted = {resource.id for resource in self.reference.account.of(person.user)}
            self.expect(shown == wanted, f"{person.user} is shown {shown}, not {wanted}")
        self._forget_events(member)

    def _check_gateways(self) -> None:
        """Nobody holds a grant that the account does not give."""
        for site, members in self.system.gateways.items():
            for gateway in members:
                if not gateway.is_alive or self.reference.is_portal_away:
                    continue
                for client in gateway.machine._clients.values():
                    person = next(
                        p for p, m in zip(self.reference.people, self.system.clients, strict=True) if m.ipv4 == client.ipv4
                    )
                    wanted = {resource.id for resource in self.reference.account.of(person.user) if site in resource.sites}
                    extra = set(client.authorizations) - wanted
                    self.expect(not extra, f"{person.user} still holds {extra} in {site}")
                del gateway.events[:-KEPT_EVENTS]

    def _check_deadlines(self) -> None:
        now = self.system.clock.time
        for member in self.system.members:
            if member.is_alive and member.engine.deadline is not None:
                self.expect(member.engine.deadline >= now, f"{member.id}: {member.engine.deadline_reason} is overdue")

    def _person_at(self, address: object) -> Person:
        number = next(number for number, member in enumerate(self.system.clients) if member.ipv4 == address)
        return self.reference.people[number]

    def _forget_events(self, member: Member) -> None:
        """All but the latest configuration, the latest list and the last few."""
        latest = [events[-1] for kind in (TunConfig, ResourcesUpdated) if (events := member.events_of(kind))]
        member.events[:] = [*latest, *member.events[-KEPT_EVENTS:]]
