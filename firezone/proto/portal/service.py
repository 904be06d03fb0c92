"""The portal as a pure machine: upgrades, text frames, policies and time in; frames, closes and notices out.

Whoever owns the sockets numbers them, asks `check_login` before answering an upgrade, and reports what happens; outputs are
polled and carried out in order. Everything a device is promised is in the store before the promise leaves.

Source: portal protocol sections 9 and 10.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

from firezone.base.errors import WireError
from firezone.base.net import TUNNEL_V4, TUNNEL_V6
from firezone.base.rng import Rng
from firezone.base.secret import SecretBytes
from firezone.base.timing import SECOND, Instant, UnixTime, earliest
from firezone.proto.portal import render
from firezone.proto.portal.credentials import free_offset, pair_credentials
from firezone.proto.portal.grants import ANSWER_TIMEOUT, Grants, Pending, PendingFlows
from firezone.proto.portal.login import Login, LoginRejected, RelayLogin, Upgrade, read_login
from firezone.proto.portal.model import Device, Grant, Location, PolicyBook, Resource, Role, Store
from firezone.proto.portal.outputs import CLOSE_GOING_AWAY, CLOSE_NORMAL, CLOSE_PROTOCOL_ERROR, Close, Notice, Output, Send
from firezone.proto.portal.policy import Verdict, earlier, judge
from firezone.proto.portal.presence import Connection, Presence, is_compatible, pick_gateway
from firezone.proto.portal.relays import Relays
from firezone.wire.phoenix import (
    DISCONNECT,
    HEARTBEAT,
    HEARTBEAT_TOPIC,
    INVALID_REF,
    PHX_JOIN,
    UNKNOWN_MESSAGE,
    UNMATCHED_TOPIC,
    Frame,
    decode_request,
    encode_frame,
    encode_reply,
)
from firezone.wire.portal import client, gateway
from firezone.wire.portal.shared import NoRelays, RelaysPresence, TurnRelay, UnixSeconds, Vocabulary

RECOMPUTE_INTERVAL = 60 * SECOND
"""Conditions that depend on the time are looked at this often."""
DUPLICATE_RETRY_S = 5
"""Pause asked of a second gateway with the identity of a connected one."""

VOCABULARIES: dict[Role, tuple[Vocabulary, Vocabulary]] = {
    Role.CLIENT: (client.TO_PORTAL, client.FROM_PORTAL),
    Role.GATEWAY: (gateway.TO_PORTAL, gateway.FROM_PORTAL),
}
"""What each role says and hears."""


class PortalService:
    """One account's control plane."""

    def __init__(self, book: PolicyBook, *, store: Store, rng: Rng, now: Instant, utc: UnixTime) -> None:
        """Takes up where the store left off, under the present policy."""
        devices, grants = store.load()
        self._book = book
        self._store = store
        self._rng = rng
        self._devices = {device.id: device for device in devices}
        self._grants = Grants(store, grants)
        self._pending = PendingFlows(rng)
        self._presence = Presence()
        self._outputs: deque[Output] = deque()
        self._relays = Relays(self._outputs)
        self._relays.set_policy(book, utc // SECOND, now)
        self._recompute_at = now
        self._handlers: dict[type, Callable[[Connection, Any, Frame, Instant, int], None]] = {
            client.CreateFlow: self._on_create_flow,
            client.BroadcastIceCandidates: self._on_candidates,
            client.BroadcastInvalidatedIceCandidates: self._on_candidates,
            gateway.FlowAuthorized: self._on_flow_authorized,
            gateway.BroadcastIceCandidates: self._on_candidates,
            gateway.BroadcastInvalidatedIceCandidates: self._on_candidates,
            NoRelays: self._on_no_relays,
        }
        self._reconcile(utc)
        self._store.commit()

    def check_login(self, upgrade: Upgrade, utc: UnixTime) -> Login | RelayLogin:
        """Judges an upgrade request without changing anything. Raises LoginRejected."""
        login = read_login(upgrade, self._book, utc // SECOND)
        if isinstance(login, Login) and self._is_duplicate_gateway(login):
            # The older one keeps working; if it is dead, its silence ends it soon.
            raise LoginRejected(
                503, "A gateway with this id is connected", code="gateway_already_connected", retry_after_s=DUPLICATE_RETRY_S
            )
        return login

    def handle_connected(self, number: int, login: Login | RelayLogin, now: Instant, utc: UnixTime) -> None:
        """A WebSocket stands for a login that was found good."""
        utc_s = utc // SECOND
        token = self._book.tokens.get(login.token.sha256)
        if token is None or not token.is_valid(utc_s) or (isinstance(login, Login) and self._is_duplicate_gateway(login)):
            self._outputs.append(Close(number, CLOSE_NORMAL))
            return
        if token.expires_at is not None:
            self._recompute_at = min(self._recompute_at, now + (token.expires_at * SECOND - utc))
        if isinstance(login, RelayLogin):
            self._relays.handle_connected(number, login, now)
            return
        device = self._upsert(login, utc_s)
        older = self._presence.of_device(device.id)
        if older is not None:
            self._evict(older)
        self._presence.add(Connection(number, device, token, now))
        self._store.commit()
        self._notice("info", f"{login.role.value} connected", device, version=device.version)

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
            self._notice("warning", "a device sent what is no message", connection.device, why=str(error))
            self._close(connection, CLOSE_PROTOCOL_ERROR, now)
            return
        self._dispatch(connection, frame, now, utc // SECOND)
        self._store.commit()

    def handle_disconnected(self, number: int, now: Instant) -> None:
        """A WebSocket is gone."""
        self._relays.handle_disconnected(number, now)
        connection = self._presence.remove(number)
        if connection is None:
            return
        self._notice("info", f"{connection.topic} disconnected", connection.device)
        for pending in self._pending.forget(number):
            self._fail_flow(pending)

    def handle_timeout(self, now: Instant, utc: UnixTime) -> None:
        """Does what is due."""
        for pending in self._pending.take_due(now):
            self._fail_flow(pending)
        for connection in self._presence.all():
            if now >= connection.idle_at:
                self._notice("info", f"{connection.topic} fell silent", connection.device)
                self._close(connection, CLOSE_GOING_AWAY, now)
        if now >= self._recompute_at:
            self._recompute(now, utc)
        if self._relays.handle_timeout(now):
            self._push_relays()
        self._store.commit()

    def handle_policy(self, book: PolicyBook, now: Instant, utc: UnixTime) -> None:
        """Replaces the policy and tells everybody what changed for them."""
        old, self._book = self._book, book
        for connection in self._presence.all(Role.CLIENT):
            if connection.is_joined and _dns(old) != _dns(book):
                interface = render.client_interface(connection.device, book.account)
                self._say(connection, client.ConfigChanged(interface=interface))
        self._recompute(now, utc)
        self._update_gateways(old)
        self._relays.touch(now)
        self._store.commit()

    def poll_timeout(self) -> tuple[Instant, str] | None:
        pending = self._pending.next_deadline()
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
            self._reply(connection, frame)
        elif frame.topic == connection.topic and frame.event == PHX_JOIN:
            self._reply(connection, frame)
            connection.is_joined = True
            self._push_init(connection, utc_s)
        elif frame.topic != connection.topic or not connection.is_joined:
            self._reply(connection, frame, UNMATCHED_TOPIC)
        else:
            try:
                message = VOCABULARIES[connection.device.role][0].decode(frame.event, frame.payload)
            except WireError as error:
                self._notice("warning", "a device sent a message that is not understood", connection.device, why=str(error))
                self._reply(connection, frame, UNKNOWN_MESSAGE)
                return
            self._handlers[type(message)](connection, message, frame, now, utc_s)

    def _push_init(self, connection: Connection, utc_s: int) -> None:
        device, account = connection.device, self._book.account
        self._reconcile(utc_s * SECOND, only=device.id)
        relays = self._relays_for(connection)
        if device.role is Role.GATEWAY:
            self._say(connection, render.gateway_init(device, account, self._grants.of_gateway(device.id), relays))
            return
        connection.told = self._visible(connection, utc_s)
        interface = render.client_interface(device, account)
        self._say(connection, client.Init(interface=interface, resources=tuple(connection.told.values()), relays=relays))

    def _on_create_flow(self, connection: Connection, message: client.CreateFlow, frame: Frame, now: Instant, utc_s: int) -> None:
        resource = self._book.resources.get(message.resource_id)
        verdict = None if resource is None else self._judge(connection.device, resource, utc_s)
        if resource is None or verdict is None or not verdict.is_known or not resource.site_ids:
            self._refuse_flow(connection, message, client.NOT_FOUND)
            return
        if not verdict.is_permitted:
            self._refuse_flow(connection, message, client.FORBIDDEN, verdict.violated)
            return
        online = [
            other for other in self._presence.all(Role.GATEWAY)
            if other.is_joined and other.device.owner_id in resource.site_ids
        ]  # fmt: skip
        fitting = [other for other in online if is_compatible(connection.device.version, other.device.version)]
        if not fitting:
            why = "no gateway of its sites is online" if not online else "the gateways' versions do not fit the client's"
            self._notice("warning", "a resource cannot be served", connection.device, resource=resource.name, why=why)
            self._refuse_flow(connection, message, client.OFFLINE)
            return
        chosen = pick_gateway(fitting, message.connected_gateway_ids, self._rng)
        self._authorize(connection, chosen, resource, earlier(verdict.expires_at, connection.token.expires_at), now)

    def _authorize(
        self, connection: Connection, chosen: Connection, resource: Resource, expires_at: UnixSeconds | None, now: Instant
    ) -> None:
        device = connection.device
        credentials = pair_credentials(device, chosen.device)
        answer = render.flow_created(resource, chosen.device, credentials)
        ref = self._pending.add(Pending(connection.number, chosen.number, resource.id, answer, now + ANSWER_TIMEOUT))
        self._grants.put(Grant(device.id, resource.id, chosen.device.id, connection.token.id, str(resource.address), expires_at))
        self._say(chosen, render.authorize_flow(ref, resource, device, credentials, expires_at))

    def _on_flow_authorized(
        self, connection: Connection, message: gateway.FlowAuthorized, frame: Frame, now: Instant, utc_s: int
    ) -> None:
        pending = self._pending.take(message.ref, connection.number)
        if pending is None:
            self._reply(connection, frame, INVALID_REF)
            return
        self._reply(connection, frame)
        asker = self._presence.get(pending.client_connection)
        if asker is not None and asker.is_joined:
            self._say(asker, pending.answer)

    def _on_no_relays(self, connection: Connection, message: NoRelays, frame: Frame, now: Instant, utc_s: int) -> None:
        """Answered with what there is, even if that is none: then the next relay that comes online is pushed."""
        self._notice("warning", "a device has no relay left", connection.device)
        self._say(connection, RelaysPresence(disconnected_ids=(), connected=self._relays_for(connection)))

    def _on_candidates(self, connection: Connection, message: render.Candidates, frame: Frame, now: Instant, utc_s: int) -> None:
        """Forwards candidate lines unchanged; whoever is not there does not get them."""
        targets, translated = render.candidates(message, connection.device)
        role = Role.GATEWAY if connection.device.role is Role.CLIENT else Role.CLIENT
        for device_id in targets:
            target = self._presence.joined(device_id, role)
            if target is not None:
                self._say(target, translated)

    def _refuse_flow(self, connection: Connection, message: client.CreateFlow, reason: str, violated: tuple[str, ...] = ()) -> None:
        self._say(
            connection,
            client.FlowCreationFailed(resource_id=message.resource_id, reason=reason, violated_properties=violated),
        )

    def _fail_flow(self, pending: Pending) -> None:
        """The gateway that was asked did not answer."""
        asker = self._presence.get(pending.client_connection)
        if asker is not None and asker.is_joined:
            failed = client.FlowCreationFailed(resource_id=pending.resource_id, reason=client.OFFLINE)
            self._say(asker, failed)

    # Devices

    def _find_device(self, login: Login) -> Device | None:
        identity = (login.role, login.token.owner_id, login.external_id)
        return next(
            (device for device in self._devices.values() if (device.role, device.owner_id, device.external_id) == identity),
            None,
        )

    def _is_duplicate_gateway(self, login: Login) -> bool:
        """Tells whether another process with this gateway's identity is connected; keys are new with each process."""
        device = self._find_device(login)
        present = None if device is None else self._presence.of_device(device.id)
        return login.role is Role.GATEWAY and present is not None and present.device.public_key != login.public_key

    def _upsert(self, login: Login, utc_s: int) -> Device:
        device = self._find_device(login)
        if device is None:
            taken = {int(other.ipv4) - int(TUNNEL_V4.network_address) for other in self._devices.values()}
            offset = free_offset(self._rng, taken)
            device = Device(
                str(uuid.UUID(bytes=self._rng.bytes(16), version=4)), login.role, login.token.owner_id, login.external_id,
                login.name, login.public_key, SecretBytes(self._rng.bytes(32)), TUNNEL_V4[offset], TUNNEL_V6[offset],
                login.version, login.remote_ip, UnixSeconds(utc_s),
            )  # fmt: skip
        device = dataclasses.replace(
            device, public_key=login.public_key, version=login.version, remote_ip=login.remote_ip,
            last_seen=UnixSeconds(utc_s), name=login.name if login.role is Role.GATEWAY else device.name,
        )  # fmt: skip
        self._devices[device.id] = device
        self._store.put_device(device)
        return device

    def _evict(self, older: Connection) -> None:
        """A client logged in again: the newest wins, and the older one is told to stop for good if it still listens."""
        self._presence.remove(older.number)
        for pending in self._pending.forget(older.number):
            self._fail_flow(pending)
        if older.device.role is Role.CLIENT:
            text = encode_frame(older.topic, DISCONNECT, b'{"reason":"token_expired"}', None)
            self._outputs.append(Send(older.number, text))
        self._outputs.append(Close(older.number, CLOSE_NORMAL))

    def _close(self, connection: Connection, code: int, now: Instant) -> None:
        self._outputs.append(Close(connection.number, code))
        self.handle_disconnected(connection.number, now)

    # Policies

    def _judge(self, device: Device, resource: Resource, utc_s: int) -> Verdict:
        return judge(self._book, device.owner_id, resource, device.remote_ip, utc_s)

    def _visible(self, connection: Connection, utc_s: int) -> dict[str, client.CidrResource]:
        """Returns what a client may reach now, by id."""
        return {
            resource.id: render.client_resource(self._book, resource)
            for resource in self._book.resources.values()
            if resource.site_ids and self._judge(connection.device, resource, utc_s).is_permitted
        }

    def _push_relays(self) -> None:
        """Tells every device what changed for it among the relays."""
        for connection in self._presence.all():
            if connection.is_joined:
                device, expires_at = connection.device, self._turn_expiry(connection)
                news = connection.relays.update(self._relays, device, self._location(device), expires_at)
                if news is not None:
                    self._say(connection, news)

    def _relays_for(self, connection: Connection) -> tuple[TurnRelay, ...]:
        """Returns the relays of a device that asks."""
        device = connection.device
        return connection.relays.begin(self._relays, device, self._location(device), self._turn_expiry(connection))

    def _turn_expiry(self, connection: Connection) -> UnixSeconds | None:
        """A client's credentials die with its token, a gateway's do not."""
        return connection.token.expires_at if connection.device.role is Role.CLIENT else None

    def _location(self, device: Device) -> Location | None:
        """Returns where a device is: a gateway at its site; of a client nobody knows."""
        site = self._book.sites.get(device.owner_id) if device.role is Role.GATEWAY else None  # type: ignore[call-overload]
        return None if site is None else site.location

    def _recompute(self, now: Instant, utc: UnixTime) -> None:
        """Applies the policy as it is now to everybody: logins first, then grants, then what clients see."""
        utc_s = utc // SECOND
        self._recompute_at = now + RECOMPUTE_INTERVAL
        for connection in self._presence.all():
            token = self._book.tokens.get(connection.token.sha256)
            if token is None or not token.is_valid(utc_s) or not self._is_owner_active(connection.device):
                self._notice("info", "a login is no longer valid", connection.device)
                self._close(connection, CLOSE_NORMAL, now)
                continue
            connection.token = token
            if token.expires_at is not None:
                self._recompute_at = min(self._recompute_at, now + (token.expires_at * SECOND - utc))
        self._relays.set_policy(self._book, utc_s, now)
        for token in self._relays.tokens():
            if token.expires_at is not None:
                self._recompute_at = min(self._recompute_at, now + (token.expires_at * SECOND - utc))
        self._reconcile(utc)
        for connection in self._presence.all(Role.CLIENT):
            if connection.is_joined:
                self._push_differences(connection, utc_s)

    def _is_owner_active(self, device: Device) -> bool:
        if device.role is Role.GATEWAY:
            return device.owner_id in self._book.sites
        user = self._book.users.get(device.owner_id)
        return user is not None and user.is_enabled

    def _push_differences(self, connection: Connection, utc_s: int) -> None:
        """Tells a client what is gone, then what is new or changed. A moved or renamed site counts as both."""
        told, visible = connection.told, self._visible(connection, utc_s)
        connection.told = visible
        for resource_id, resource in told.items():
            after = visible.get(resource_id)
            if after is None or _sites(after) != _sites(resource):
                self._say(connection, client.ResourceDeleted(resource_id=resource.id))
        for resource_id, resource in visible.items():
            before = told.get(resource_id)
            if before != resource or _sites(before) != _sites(resource):
                self._say(connection, client.ResourceCreatedOrUpdated(resource=resource))

    def _reconcile(self, utc: UnixTime, only: str | None = None) -> None:
        """Ends every grant that is no longer due and moves the expiry of those that are. `only` one device's, if given."""
        utc_s = utc // SECOND
        for grant in self._grants.all():
            if only is not None and only not in (grant.client_id, grant.gateway_id):
                continue
            if grant.expires_at is not None and utc_s >= grant.expires_at:
                self._grants.remove(grant)  # The gateway ends it by itself.
                continue
            is_due, expires_at = self._is_due(grant, utc_s)
            serving = self._presence.joined(grant.gateway_id, Role.GATEWAY)
            if not is_due:
                self._grants.remove(grant)
                if serving is not None:
                    self._say(serving, gateway.RejectAccess(client_id=grant.client_id, resource_id=grant.resource_id))  # type: ignore[arg-type]
            elif expires_at != grant.expires_at:
                self._grants.put(dataclasses.replace(grant, expires_at=expires_at))
                if serving is not None:
                    moved = gateway.AccessAuthorizationExpiryUpdated(
                        client_id=grant.client_id,  # type: ignore[arg-type]
                        resource_id=grant.resource_id,
                        expires_at=render.FAR_FUTURE if expires_at is None else expires_at,
                    )
                    self._say(serving, moved)

    def _is_due(self, grant: Grant, utc_s: int) -> tuple[bool, UnixSeconds | None]:
        """Tells whether a grant would be given today, and until when."""
        resource = self._book.resources.get(grant.resource_id)
        asker, serving = self._devices.get(grant.client_id), self._devices.get(grant.gateway_id)
        token = self._book.token_by_id(grant.token_id)
        if resource is None or asker is None or serving is None or token is None or not token.is_valid(utc_s):
            return False, None
        if str(resource.address) != grant.address or serving.owner_id not in resource.site_ids:
            return False, None
        verdict = self._judge(asker, resource, utc_s)
        return verdict.is_permitted, earlier(verdict.expires_at, token.expires_at)

    def _update_gateways(self, old: PolicyBook) -> None:
        """Tells gateways of a new account slug, and those that have a grant for a resource of its new filters."""
        for connection in self._presence.all(Role.GATEWAY):
            if not connection.is_joined:
                continue
            grants = self._grants.of_gateway(connection.device.id)
            if old.account.slug != self._book.account.slug:
                relays = self._relays_for(connection)
                self._say(connection, render.gateway_init(connection.device, self._book.account, grants, relays))
            for resource_id in dict.fromkeys(grant.resource_id for grant in grants):
                before, after = old.resources.get(resource_id), self._book.resources[resource_id]
                if before is not None and render.gateway_resource(before) != render.gateway_resource(after):
                    self._say(connection, gateway.ResourceUpdated(resource=render.gateway_resource(after)))

    # Output

    def _reply(self, connection: Connection, frame: Frame, reason: str | None = None) -> None:
        self._outputs.append(Send(connection.number, encode_reply(frame.topic, frame.ref, reason)))

    def _say(self, connection: Connection, message: Any) -> None:
        event, payload = VOCABULARIES[connection.device.role][1].encode(message)
        self._outputs.append(Send(connection.number, encode_frame(connection.topic, event, payload, None)))

    def _notice(self, level: str, text: str, device: Device, **fields: Any) -> None:
        self._outputs.append(Notice(level, text, {"device": device.id, "name": device.name, **fields}))


def _sites(resource: client.CidrResource | None) -> tuple[tuple[str, str], ...]:
    """Sites are equal by id; a client must hear of their names too."""
    return () if resource is None else tuple((site.id, site.name) for site in resource.sites)


def _dns(book: PolicyBook) -> tuple[object, ...]:
    return book.account.search_domain, book.account.upstream_dns
