"""Edits of the policy and of what clients want, while everything runs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from tests.world.base import Base
from tests.world.policy import FILTERS, POOL, RESOLVERS, SITES, UPSTREAMS

if TYPE_CHECKING:
    from tests.world.reference import Person


class Edits(Base):
    """Transitions of administrators and users."""

    def add_resource(self, number: int) -> None:
        if number not in self.reference.account.resources:
            self.reference.account.resources[number] = POOL[number]
            self.edit()

    def remove_resource(self, number: int) -> None:
        if number in self.reference.account.resources:
            self._lose_internet(number, *self.reference.people)
            del self.reference.account.resources[number]
            self.edit()

    def change_filters(self, number: int, filters: str) -> None:
        self._change(number, filters=filters)

    def move_resource(self, number: int, site: str) -> None:
        self._change(number, sites=(site,))

    def _change(self, number: int, **changes: Any) -> None:
        known = self.reference.account.resources.get(number)
        if known is not None and known.kind != "internet":
            self.reference.account.resources[number] = dataclasses.replace(known, **changes)
            self.edit()

    def grant(self, client: int, number: int) -> None:
        self.reference.account.granted.add((self.reference.people[client].user, number))
        self.edit()

    def revoke(self, client: int, number: int) -> None:
        key = self.reference.people[client].user, number
        if key in self.reference.account.granted:
            self._lose_internet(number, self.reference.people[client])
            self.reference.account.granted.remove(key)
            self.edit()

    def edit(self) -> None:
        if self.reference.is_portal_away:
            return  # Nobody hears of it before the portal is back; the walk does not edit then.
        self.system.portal.edit(self.reference.account.text())
        self.system.run(0.5)
        self.reference.disturb()  # A grant that is renewed may cost a connection, and with it packets under way.

    def _lose_internet(self, number: int, *people: Person) -> None:
        """With the Internet resource goes the wish to use it (client 15.2), of those who had it."""
        for person in people:
            if any(one.number == number and one.kind == "internet" for one in self.reference.account.of(person.user)):
                person.is_internet_on = False

    def switch_internet(self, client: int) -> None:
        person, member = self.reference.people[client], self.system.clients[client]
        person.is_internet_on = not person.is_internet_on
        member.call(member.machine.set_internet_resource_state, person.is_internet_on)
        self.system.run(0.2)
        person.disturb()

    def set_upstream(self, servers: list[str]) -> None:
        """The administrator names other servers, or none."""
        self.reference.account.upstream = tuple(servers)
        self.edit()

    def set_resolvers(self, client: int, servers: list[str]) -> None:
        """The machine's network names other servers."""
        member = self.system.clients[client]
        self.reference.people[client].resolvers = tuple(servers)
        member.call(member.machine.set_system_resolvers, servers)

    # drawing

    def some_upstream(self) -> list[Any] | None:
        return None if self.reference.is_portal_away else [list(self.rng.choice(UPSTREAMS))]

    def some_resolvers(self) -> list[Any]:
        return [self.rng.randrange(2), list(self.rng.choice(RESOLVERS))]

    def some_missing_resource(self) -> list[Any] | None:
        missing = [one.number for one in POOL if one.number not in self.reference.account.resources]
        return None if not missing or self.reference.is_portal_away else [self.rng.choice(missing)]

    def some_resource(self) -> list[Any] | None:
        known = sorted(self.reference.account.resources)
        return None if not known or self.reference.is_portal_away else [self.rng.choice(known)]

    def some_filters(self) -> list[Any] | None:
        resource = self.some_resource()
        return None if resource is None else [*resource, self.rng.choice(list(FILTERS))]

    def some_move(self) -> list[Any] | None:
        resource = self.some_resource()
        return None if resource is None else [*resource, self.rng.choice(SITES[:2])]

    def some_grant(self) -> list[Any] | None:
        resource = self.some_resource()
        return None if resource is None else [self.rng.randrange(2), *resource]
