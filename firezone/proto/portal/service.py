"""The portal as a pure machine: upgrades, text frames, policies and time in; frames, closes and notices out.

Whoever owns the sockets numbers them, asks `check_login` before answering an upgrade, and reports what happens; outputs are
polled and carried out in order. Everything a device is promised is in the store before the promise leaves.

Source: portal protocol sections 9, 10 and 11.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from firezone.base.errors import WireError
from firezone.base.rng import Rng
from firezone.base.timing import SECOND, Instant, UnixTime, earliest
from firezone.proto.portal import render
from firezone.proto.portal.devices import Devices
from firezone.proto.portal.directory import Directory, Toggled, retold
from firezone.proto.portal.flows import Flows
from firezone.proto.portal.grants import Grants
from firezone.proto.portal.login import Login, LoginRate, RelayLogin, Upgrade, disabled_device, duplicate_gateway, read_login
from firezone.proto.portal.model import Device, PolicyBook, Role, Store
from firezone.proto.portal.outputs import CLOSE_GOING_AWAY, CLOSE_NORMAL, CLOSE_PROTOCOL_ERROR, Output
from firezone.proto.portal.presence import Connection, Presence
from firezone.proto.portal.relays import Relays
from firezone.proto.portal.speaker import Speaker
from firezone.wire.phoenix import (
    HEARTBEAT,
    HEARTBEAT_TOPIC,
    PHX_JOIN,
    UNKNOWN_MESSAGE,
    UNMATCHED_TOPIC,
    Frame,
    decode_request,
)
from firezone.wire.portal import client, gateway
from firezone.wire.portal.shared import NoRelays, RelaysPresence, TurnRelay, UnixSeconds
from firezone.wire.portal.v2 import client as client2
from firezone.wire.portal.v2 import gateway as gateway2
from firezone.wire.portal.v2.shared import SnownetCapabilities

RECOMPUTE_INTERVAL = 60 * SECOND
"""Conditions that depend on the time are looked at this often."""
DUPLICATE_RETRY_S = 5
"""Pause asked of a second gateway with the identity of a connected one."""


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device as an administrator sees it."""

    device: Device
    owner: str
    """Name of its user or site; empty when that is gone."""
    is_online: bool


class PortalService:
    """One account's control plane."""

    def __init__(self, book: PolicyBook, *, store: Store, rng: Rng, now: Instant, utc: UnixTime) -> None:
        """Takes up where the store left off, under the present policy."""
        devices, grants = store.load()
        self._store = store
        self._outputs: deque[Output] = deque()
        self._speaker = Speaker(self._outputs)
        self._presence = Presence()
        self._devices = Devices(store, rng, devices)
        self._grants = Grants(store, grants)
        self._directory = Directory(book, self._devices, self._presence, self._grants, self._speaker, rng)
        self._flows = Flows(self._directory)
        self._relays = Relays(self._outputs)
        self._relays.set_policy(book, utc // SECOND, now)
        self._rate = LoginRate()
        self._recompute_at = now
        self._handlers: dict[type, Callable[[Connection, Any, Frame, Instant, int], None]] = {
            client.CreateFlow: self._on_create_flow,
            client2.RequestAuthorization: self._on_create_flow,
            client.BroadcastIceCandidates: self._on_candidates,
            client.BroadcastInvalidatedIceCandidates: self._on_candidates,
            client2.NewGatewayIceCandidates: self._on_candidates,
            client2.InvalidateGatewayIceCandidates: self._on_candidates,
            client2.ResolveDevicePoolDomain: self._on_pool_domain,
            gateway.FlowAuthorized: self._on_flow_authorized,
            gateway2.AuthorizationCreated: self._on_flow_authorized,
            gateway.BroadcastIceCandidates: self._on_candidates,
            gateway.BroadcastInvalidatedIceCandidates: self._on_candidates,
            NoRelays: self._on_no_relays,
            SnownetCapabilities: self._ignore,
            client2.NewClientIceCandidates: self._ignore,
            client2.InvalidateClientIceCandidates: self._ignore,
        }
        self._anew = self._flows.reconcile(utc)
        """What clients must ask for anew, who are told when they are here."""
        self._store.commit()

    @property
    def _book(self) -> PolicyBook:
        return self._directory.book

    def check_login(self, upgrade: Upgrade, utc: UnixTime) -> Login | RelayLogin:
        """Judges an upgrade request without changing anything but the memory of attempts. Raises LoginRejected."""
        self._rate.take(upgrade, utc)
        login = read_login(upgrade, self._book, utc // SECOND)
        if isinstance(login, Login):
            device = self._devices.find(login)
            if device is not None and device.is_disabled:
                raise disabled_device(login.dialect.protocol)
            if self._is_duplicate_gateway(login):
                # The older one keeps working; if it is dead, its silence ends it soon.
                raise duplicate_gateway(login.dialect.protocol, DUPLICATE_RETRY_S)
        return login

    def handle_connected(self, number: int, login: Login | RelayLogin, now: Instant, utc: UnixTime) -> None:
        """A WebSocket stands for a login that was found good."""
        utc_s = utc // SECOND
        token = self._book.tokens.get(login.token.sha256)
        if token is None or not token.is_valid(utc_s) or (isinstance(login, Login) and self._is_duplicate_gateway(login)):
            self._speaker.close(number)
            return
        if token.expires_at is not None:
            self._recompute_at = min(self._recompute_at, now + (token.expires_at * SECOND - utc))
        if isinstance(login, RelayLogin):
            self._relays.handle_connected(number, login, now)
            return
        device = self._devices.upsert(login, utc_s)
        older = self._presence.of_device(device.id)
        if older is not None:
            self._evict(older)
        self._presence.add(Connection(number, device, token, login.dialect, now))
        self._store.commit()
        self._speaker.notice("info", f"{login.role.value} connected", device, version=device.version)

    def handle_text(self, number: int, text: str | bytes, now: Instant, utc: UnixTime) -> None:
        """Takes one text frame of a device or relay."""
        if number in self._relays:
            self._relays.handle_text(number, text, now)
            return
        connection = self._presence.get(number)
        if connection is None:
            return
        connection.heard_at = now
        try:
            frame = decode_request(text)
        except WireError as error:
            self._speaker.notice("warning", "a device sent what is no message", connection.device, why=str(error))
            self._close(connection, now, CLOSE_PROTOCOL_ERROR)
            return
        self._dispatch(connection, frame, now, utc // SECOND)
        self._store.commit()

    def handle_disconnected(self, number: int, now: Instant) -> None:
        """A WebSocket is gone."""
        self._relays.handle_disconnected(number, now)
        connection = self._presence.remove(number)
        if connection is None:
            return
        self._speaker.notice("info", f"{connection.topic} disconnected", connection.device)
        self._flows.handle_gone(number)

    def handle_timeout(self, now: Instant, utc: UnixTime) -> None:
        """Does what is due."""
        self._flows.handle_timeout(now)
        for connection in self._presence.all():
            if now >= connection.idle_at:
                self._speaker.notice("info", f"{connection.topic} fell silent", connection.device)
                self._close(connection, now, CLOSE_GOING_AWAY)
        if now >= self._recompute_at:
            self._recompute(now, utc)
        if self._relays.handle_timeout(now):
            self._push_relays()
        self._store.commit()

    def handle_policy(self, book: PolicyBook, now: Instant, utc: UnixTime) -> None:
        """Replaces the policy and tells everybody what changed for them."""
        old = self._book
        self._directory.set_book(book)
        for connection in self._presence.all(Role.CLIENT):
            if connection.is_joined and _dns(old) != _dns(book):
                self._speaker.say(connection, render.config_changed(connection.device, book.account, connection.dialect))
        users = retold(old, book)
        self._recompute(now, utc, {device.id: set(users.get(device.owner_id, ())) for device in self._devices.all()})
        self._update_gateways(old)
        self._relays.touch(now)
        self._store.commit()

    # Administration

    def devices(self) -> list[DeviceView]:
        """Returns all devices that have ever logged in."""
        names: dict[str, str] = {user.id: user.name for user in self._book.users.values()}
        names.update((site.id, site.name) for site in self._book.sites.values())
        return [
            DeviceView(device, names.get(device.owner_id, ""), self._presence.joined(device.id, device.role) is not None)
            for device in self._devices.all()
        ]

    def handle_device_removed(self, device_id: str, now: Instant, utc: UnixTime) -> None:
        """Forgets a device with all it was granted. If it comes again it is another one. Raises KeyError."""
        self._devices.remove(self._device(device_id))
        self._anew.pop(device_id, None)
        connection = self._presence.of_device(device_id)
        if connection is not None:
            self._speaker.end_channel(connection)
            self._close(connection, now)
        self._after_device(device_id, now, utc)

    def handle_device_disabled(self, device_id: str, is_disabled: bool, now: Instant, utc: UnixTime) -> None:
        """Keeps a device out, or lets it in again. Raises KeyError."""
        self._devices.set_disabled(self._device(device_id), is_disabled)
        connection = self._presence.of_device(device_id)
        if connection is not None and is_disabled:
            self._close(connection, now)
        self._after_device(device_id, now, utc)

    def _device(self, device_id: str) -> Device:
        device = self._devices.get(device_id)
        if device is None:
            raise KeyError(device_id)
        return device

    def _after_device(self, device_id: str, now: Instant, utc: UnixTime) -> None:
        """Clients of a gateway that is kept out ask anew, and find another."""
        lost: Toggled = {}
        for grant in self._grants.of_gateway(device_id):
            lost.setdefault(grant.client_id, set()).add(grant.resource_id)
        self._recompute(now, utc, lost)
        self._store.commit()

    # Time and outputs

    def poll_timeout(self) -> tuple[Instant, str] | None:
        pending = self._flows.poll_timeout()
        idle = min((connection.idle_at for connection in self._presence.all()), default=None)
        return earliest(
            (self._recompute_at, "recompute policies"),
            None if pending is None else (pending, "gateway's answer"),
            None if idle is None else (idle, "idle device"),
            self._relays.poll_timeout(),
        )

    def poll_output(self) -> Output | None:
        return self._outputs.popleft() if self._outputs else None

    # Frames

    def _dispatch(self, connection: Connection, frame: Frame, now: Instant, utc_s: int) -> None:
        if frame.topic == HEARTBEAT_TOPIC and frame.event == HEARTBEAT:
            self._speaker.reply(connection, frame)
        elif frame.topic == connection.topic and frame.event == PHX_JOIN:
            self._speaker.reply(connection, frame)
            connection.is_joined = True
            self._push_init(connection, utc_s)
        elif frame.topic != connection.topic or not connection.is_joined:
            self._speaker.reply(connection, frame, UNMATCHED_TOPIC)
        else:
            try:
                message = connection.dialect.heard.decode(frame.event, frame.payload)
            except WireError as error:
                self._speaker.notice("warning", "a device sent a message that is not understood", connection.device, why=str(error))
                self._speaker.reply(connection, frame, UNKNOWN_MESSAGE)
                return
            self._handlers[type(message)](connection, message, frame, now, utc_s)

    def _push_init(self, connection: Connection, utc_s: int) -> None:
        device, account = connection.device, self._book.account
        self._remember(self._flows.reconcile(utc_s * SECOND, only=device.id))
        relays = self._relays_for(connection)
        if device.role is Role.GATEWAY:
            grants = self._grants.of_gateway(device.id)
            self._speaker.say(connection, render.gateway_init(device, account, grants, relays, connection.dialect))
            for asker in self._presence.all(Role.CLIENT):
                if asker.is_joined and asker.device.id in self._anew:
                    self._directory.push_differences(asker, self._anew.pop(asker.device.id), utc_s)
            return
        connection.told = self._directory.visible(connection, utc_s)
        init = render.client_init(device, account, connection.told.values(), relays, connection.dialect)
        self._speaker.say(connection, init)
        if anew := self._anew.pop(device.id, None):
            self._directory.push_differences(connection, anew, utc_s)

    def _remember(self, anew: Toggled) -> None:
        for client_id, resources in anew.items():
            self._anew.setdefault(client_id, set()).update(resources)

    def _on_create_flow(self, connection: Connection, message: client.CreateFlow, frame: Frame, now: Instant, utc_s: int) -> None:
        self._flows.handle_asked(connection, message, now, utc_s)

    def _on_flow_authorized(
        self, connection: Connection, message: gateway.FlowAuthorized, frame: Frame, now: Instant, utc_s: int
    ) -> None:
        self._flows.handle_authorized(connection, message, frame)

    def _on_no_relays(self, connection: Connection, message: NoRelays, frame: Frame, now: Instant, utc_s: int) -> None:
        """Answered with what there is, even if that is none: then the next relay that comes online is pushed."""
        self._speaker.notice("warning", "a device has no relay left", connection.device)
        self._speaker.say(connection, RelaysPresence(disconnected_ids=(), connected=self._relays_for(connection)))
        self._flows.handle_no_relays(connection, now)

    def _on_pool_domain(
        self, connection: Connection, message: client2.ResolveDevicePoolDomain, frame: Frame, now: Instant, utc_s: int
    ) -> None:
        """There are no device pools here."""
        failed = client2.DevicePoolDomainResolutionFailed(
            resource_id=message.resource_id, domain=message.domain, reason=client.NOT_FOUND
        )
        self._speaker.say(connection, failed)

    def _ignore(self, connection: Connection, message: Any, frame: Frame, now: Instant, utc_s: int) -> None:
        """Capabilities we have no use for, and lines for peers that nobody has."""

    def _on_candidates(self, connection: Connection, message: render.Candidates, frame: Frame, now: Instant, utc_s: int) -> None:
        """Forwards candidate lines unchanged; whoever is not there does not get them."""
        targets, translated = render.candidates(message, connection.device)
        role = Role.GATEWAY if connection.device.role is Role.CLIENT else Role.CLIENT
        for device_id in targets:
            target = self._presence.joined(device_id, role)
            if target is not None:
                self._speaker.say(target, translated)

    # Connections

    def _is_duplicate_gateway(self, login: Login) -> bool:
        """Tells whether another process with this gateway's identity is connected; keys are new with each process."""
        device = self._devices.find(login)
        present = None if device is None else self._presence.of_device(device.id)
        return login.role is Role.GATEWAY and present is not None and present.device.public_key != login.public_key

    def _evict(self, older: Connection) -> None:
        """A client logged in again: the newest wins, and the older one is told to stop for good if it still listens."""
        self._presence.remove(older.number)
        self._flows.handle_gone(older.number)
        if older.device.role is Role.CLIENT:
            self._speaker.end_session(older)
        self._speaker.close(older.number)

    def _close(self, connection: Connection, now: Instant, code: int = CLOSE_NORMAL) -> None:
        self._speaker.close(connection.number, code)
        self.handle_disconnected(connection.number, now)

    # Policies

    def _push_relays(self) -> None:
        """Tells every device what changed for it among the relays."""
        for connection in self._presence.all():
            if connection.is_joined:
                device, expires_at = connection.device, self._turn_expiry(connection)
                news = connection.relays.update(self._relays, device, self._directory.location(device), expires_at)
                if news is not None:
                    self._speaker.say(connection, news)

    def _relays_for(self, connection: Connection) -> tuple[TurnRelay, ...]:
        """Returns the relays of a device that asks."""
        device = connection.device
        return connection.relays.begin(self._relays, device, self._directory.location(device), self._turn_expiry(connection))

    def _turn_expiry(self, connection: Connection) -> UnixSeconds | None:
        """A client's credentials die with its token, a gateway's do not."""
        return connection.token.expires_at if connection.device.role is Role.CLIENT else None

    def _recompute(self, now: Instant, utc: UnixTime, toggled: Toggled | None = None) -> None:
        """Applies the policy as it is now to everybody: logins first, then grants, then what clients see."""
        utc_s = utc // SECOND
        self._recompute_at = now + RECOMPUTE_INTERVAL
        for connection in self._presence.all():
            token = self._book.tokens.get(connection.token.sha256)
            if token is None or not token.is_valid(utc_s) or not self._directory.is_owner_active(connection.device):
                self._speaker.notice("info", "a login is no longer valid", connection.device)
                if connection.dialect.protocol == 2:
                    self._speaker.end_session(connection)
                self._close(connection, now)
                continue
            connection.token = token
            if token.expires_at is not None:
                self._recompute_at = min(self._recompute_at, now + (token.expires_at * SECOND - utc))
        self._relays.set_policy(self._book, utc_s, now)
        for token in self._relays.tokens():
            if token.expires_at is not None:
                self._recompute_at = min(self._recompute_at, now + (token.expires_at * SECOND - utc))
        self._remember(self._flows.reconcile(utc))
        for connection in self._presence.all(Role.CLIENT):
            if connection.is_joined:
                client_id = connection.device.id
                again = self._anew.pop(client_id, set()) | (toggled or {}).get(client_id, set())
                self._directory.push_differences(connection, again, utc_s)

    def _update_gateways(self, old: PolicyBook) -> None:
        """Tells gateways of a new account slug, and of the new filters or names of resources that lead where they did."""
        changed = [
            (before, after) for resource_id, after in self._book.resources.items()
            if (before := old.resources.get(resource_id)) is not None and before != after and before.target == after.target
        ]  # fmt: skip
        for connection in self._presence.all(Role.GATEWAY):
            if not connection.is_joined:
                continue
            device, dialect = connection.device, connection.dialect
            if old.account.slug != self._book.account.slug:
                grants, relays = self._grants.of_gateway(device.id), self._relays_for(connection)
                self._speaker.say(connection, render.gateway_init(device, self._book.account, grants, relays, dialect))
            for before, after in changed:
                news = render.gateway_resource(after, dialect)
                if news is not None and render.gateway_resource(before, dialect) != news:
                    self._speaker.say(connection, gateway.ResourceUpdated(resource=news))


def _dns(book: PolicyBook) -> tuple[object, ...]:
    return book.account.search_domain, book.account.upstream_dns, book.account.upstream_doh
