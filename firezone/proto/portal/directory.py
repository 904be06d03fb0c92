"""What the portal knows at this moment, shared by its parts: policy, devices, connections, grants.

Source: portal protocol sections 9.7, 9.14, 9.15.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from firezone.base.ids import ResourceId
from firezone.base.rng import Rng
from firezone.proto.portal import render
from firezone.proto.portal.devices import Devices
from firezone.proto.portal.dialect import Dialect
from firezone.proto.portal.grants import Grants
from firezone.proto.portal.model import Device, Location, PolicyBook, Resource, Role
from firezone.proto.portal.policy import Verdict, judge
from firezone.proto.portal.presence import Connection, Presence
from firezone.proto.portal.speaker import Encoded, Speaker
from firezone.wire.portal import client

Toggled = dict[str, set[ResourceId]]
"""By client: resources that it must forget and learn again, so that it asks for them anew."""


@dataclass(slots=True)
class Directory:
    """Everything the parts of the portal look things up in."""

    book: PolicyBook
    devices: Devices
    presence: Presence
    grants: Grants
    speaker: Speaker
    rng: Rng
    _rendered: dict[tuple[ResourceId, Dialect], client.Resource | None] = field(default_factory=dict)
    """What the present policy's resources are in each dialect: thousands of clients speak a handful."""
    _encoded: dict[tuple[ResourceId, Dialect], Encoded] = field(default_factory=dict)
    """The same as news."""

    def set_book(self, book: PolicyBook) -> None:
        """Replaces the policy."""
        self.book = book
        self._rendered.clear()
        self._encoded.clear()

    def judge(self, device: Device, resource: Resource, utc_s: int) -> Verdict:
        """May the user of this device reach this resource now?"""
        return judge(self.book, device.owner_id, resource, device.remote_ip, utc_s)

    def visible(self, connection: Connection, utc_s: int) -> dict[str, client.Resource]:
        """Returns what a client may reach now, by id, in its words."""
        found: dict[str, client.Resource] = {}
        for resource in self.book.resources.values():
            if resource.site_ids and self.judge(connection.device, resource, utc_s).is_permitted:
                rendered = self._render(resource, connection.dialect)
                if rendered is not None:
                    found[resource.id] = rendered
        return found

    def push_differences(self, connection: Connection, toggled: set[ResourceId], utc_s: int) -> None:
        """Tells a client what is gone, then what is new or changed.

        A moved or renamed site counts as both, unless the client can take it as a change.
        """
        told, visible = connection.told, self.visible(connection, utc_s)
        connection.told = visible
        again = {
            resource_id for resource_id, resource in told.items()
            if resource_id in toggled
            or (not connection.dialect.can_move_sites and _sites(visible.get(resource_id)) != _sites(resource))
        }  # fmt: skip
        for resource_id, resource in told.items():
            if resource_id not in visible or resource_id in again:
                self.speaker.say(connection, client.ResourceDeleted(resource_id=resource.id))
        for resource_id, resource in visible.items():
            before = told.get(resource_id)
            if before != resource or _sites(before) != _sites(resource) or resource_id in again:
                self.speaker.say_encoded(connection, self._news(resource, connection.dialect))

    def is_owner_active(self, device: Device) -> bool:
        """Tells whether the user of a client, or the site of a gateway, may still log in."""
        if device.role is Role.GATEWAY:
            return device.owner_id in self.book.sites
        user = self.book.users.get(device.owner_id)
        return user is not None and user.is_enabled

    def location(self, device: Device) -> Location | None:
        """Returns where a device is: a gateway at its site; of a client nobody knows."""
        site = self.book.sites.get(device.owner_id) if device.role is Role.GATEWAY else None  # type: ignore[call-overload]
        return None if site is None else site.location

    def _render(self, resource: Resource, dialect: Dialect) -> client.Resource | None:
        key = resource.id, dialect
        if key not in self._rendered:
            self._rendered[key] = render.client_resource(self.book, resource, dialect)
        return self._rendered[key]

    def _news(self, resource: client.Resource, dialect: Dialect) -> Encoded:
        key = resource.id, dialect
        if key not in self._encoded:
            self._encoded[key] = dialect.said.encode(client.ResourceCreatedOrUpdated(resource=resource))
        return self._encoded[key]


def retold(old: PolicyBook, new: PolicyBook) -> Toggled:
    """Returns by user what a policy leads to that has stayed but for its group, resource or conditions."""
    before = {policy.id: policy for policy in old.policies if policy.is_enabled}
    found: Toggled = {}
    for policy in new.policies:
        former = before.get(policy.id)
        if former is not None and policy.is_enabled and former.terms != policy.terms:
            for user_id in former.user_ids | policy.user_ids:
                found.setdefault(user_id, set()).update((former.resource_id, policy.resource_id))
    return found


def _sites(resource: client.Resource | None) -> tuple[tuple[str, str], ...]:
    """Sites are equal by id; a client must hear of their names too."""
    return () if resource is None else tuple((site.id, site.name) for site in resource.sites)
