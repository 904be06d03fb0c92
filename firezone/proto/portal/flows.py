"""Authorisations: asked for by a client, ordered from a gateway, told to both, and taken back when they are no longer due.

Source: portal protocol sections 9.8, 9.9, 9.12, 11.7.
"""

from __future__ import annotations

import dataclasses

from firezone.base.ids import ClientId
from firezone.base.timing import SECOND, Instant, UnixTime
from firezone.proto.portal import render
from firezone.proto.portal.credentials import pair_credentials
from firezone.proto.portal.directory import Directory, Toggled
from firezone.proto.portal.grants import ANSWER_TIMEOUT, RETRY_AFTER, Pending, PendingFlows
from firezone.proto.portal.ingest import FAR_FUTURE, IngestTokens, Subject
from firezone.proto.portal.model import Grant, Resource, Role
from firezone.proto.portal.policy import Verdict, earlier
from firezone.proto.portal.presence import Connection, is_compatible, pick_gateway
from firezone.wire.phoenix import INVALID_REF, Frame
from firezone.wire.portal import client, gateway
from firezone.wire.portal.shared import UnixSeconds
from firezone.wire.portal.v2 import client as client2
from firezone.wire.portal.v2.shared import INITIATOR, RESPONDER


class Flows:
    """The authorisations that are asked for, and those that hold."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._pending = PendingFlows(directory.rng)
        self._tokens = IngestTokens(directory.rng)

    # inputs

    def handle_asked(self, connection: Connection, message: client.CreateFlow, now: Instant, utc_s: int) -> None:
        """A client wants to reach a resource."""
        directory = self._directory
        resource = directory.book.resources.get(message.resource_id)
        verdict = None if resource is None else directory.judge(connection.device, resource, utc_s)
        if resource is None or verdict is None or not verdict.is_known or not resource.site_ids:
            self._refuse(connection, message, client.NOT_FOUND)
            return
        if not verdict.is_permitted:
            self._refuse(connection, message, client.FORBIDDEN, verdict.violated)
            return
        online = [
            other for other in directory.presence.all(Role.GATEWAY)
            if other.is_joined and other.device.owner_id in resource.site_ids
        ]  # fmt: skip
        fitting = {
            other.number: (other, rendered) for other in online
            if is_compatible(connection.dialect.version, other.dialect.version)
            and (rendered := render.gateway_resource(resource, other.dialect)) is not None
        }  # fmt: skip
        if not fitting:
            why = "no gateway of its sites is online" if not online else "the gateways' versions do not fit the client's"
            directory.speaker.notice("warning", "a resource cannot be served", connection.device, resource=resource.name, why=why)
            is_mismatch = bool(online) and connection.dialect.protocol == 2
            self._refuse(connection, message, client2.VERSION_MISMATCH if is_mismatch else client.OFFLINE)
            return
        chosen = pick_gateway([other for other, _ in fitting.values()], message.connected_gateway_ids, directory.rng)
        self._authorize(connection, chosen, resource, fitting[chosen.number][1], verdict, now, utc_s)

    def handle_authorized(self, connection: Connection, message: gateway.FlowAuthorized, frame: Frame) -> None:
        """A gateway has done as it was told."""
        directory = self._directory
        pending = self._pending.take(message.ref, connection.number)
        if pending is None:
            directory.speaker.reply(connection, frame, INVALID_REF)
            return
        directory.speaker.reply(connection, frame)
        asker = directory.presence.get(pending.client_connection)
        if asker is not None and asker.is_joined:
            directory.speaker.say(asker, pending.answer)

    def handle_no_relays(self, connection: Connection, now: Instant) -> None:
        """A gateway had no relay and so has dropped what it was told: it is told again when it has one."""
        self._pending.retry(connection.number, now + RETRY_AFTER)

    def handle_gone(self, number: int) -> None:
        """A connection is gone: nobody waits for it any longer."""
        for pending in self._pending.forget(number):
            self._fail(pending)

    def handle_timeout(self, now: Instant) -> None:
        """Tells those again who asked for it, and gives up on gateways that do not answer."""
        for pending in self._pending.take_due(now):
            self._fail(pending)
        for pending in self._pending.take_retries(now):
            serving = self._directory.presence.get(pending.gateway_connection)
            if serving is not None and serving.is_joined:
                self._directory.speaker.say(serving, pending.order)

    def poll_timeout(self) -> Instant | None:
        return self._pending.next_deadline()

    # grants

    def reconcile(self, utc: UnixTime, only: str | None = None) -> Toggled:
        """Ends every grant that is no longer due and moves the expiry of those that are. `only` one device's, if given.

        Returns: what clients must ask for anew, since a gateway of version 2 cannot be told of another expiry, and since a gateway
        has ended what ran out before it was renewed. Clients believe that they still have both.
        """
        utc_s = utc // SECOND
        toggled: Toggled = {}
        for grant in self._directory.grants.all():
            if only is not None and only not in (grant.client_id, grant.gateway_id):
                continue
            is_due, expires_at = self._is_due(grant, utc_s)
            if grant.expires_at is not None and utc_s >= grant.expires_at:
                self._directory.grants.remove(grant)  # The gateway ends it by itself.
                if is_due:
                    toggled.setdefault(grant.client_id, set()).add(grant.resource_id)
                continue
            # A gateway that is about to get its `init` learns all from that.
            serving = None if only == grant.gateway_id else self._directory.presence.joined(grant.gateway_id, Role.GATEWAY)
            if not is_due:
                self._reject(grant, serving)
            elif expires_at != grant.expires_at and serving is not None and serving.dialect.protocol == 2:
                self._reject(grant, serving)
                toggled.setdefault(grant.client_id, set()).add(grant.resource_id)
            elif expires_at != grant.expires_at:
                self._move(grant, expires_at, serving)
        return toggled

    def _reject(self, grant: Grant, serving: Connection | None) -> None:
        self._directory.grants.remove(grant)
        if serving is not None:
            message = gateway.RejectAccess(client_id=ClientId(grant.client_id), resource_id=grant.resource_id)
            self._directory.speaker.say(serving, message)

    def _move(self, grant: Grant, expires_at: UnixSeconds | None, serving: Connection | None) -> None:
        self._directory.grants.put(dataclasses.replace(grant, expires_at=expires_at))
        if serving is not None:
            message = gateway.AccessAuthorizationExpiryUpdated(
                client_id=ClientId(grant.client_id),
                resource_id=grant.resource_id,
                expires_at=FAR_FUTURE if expires_at is None else expires_at,
            )
            self._directory.speaker.say(serving, message)

    def _is_due(self, grant: Grant, utc_s: int) -> tuple[bool, UnixSeconds | None]:
        """Tells whether a grant would be given today, and until when."""
        directory = self._directory
        resource = directory.book.resources.get(grant.resource_id)
        asker, serving = directory.devices.get(grant.client_id), directory.devices.get(grant.gateway_id)
        token = directory.book.token_by_id(grant.token_id)
        if resource is None or asker is None or serving is None or token is None or not token.is_valid(utc_s):
            return False, None
        if asker.is_disabled or serving.is_disabled:
            return False, None
        if resource.target != grant.address or serving.owner_id not in resource.site_ids:
            return False, None
        verdict = directory.judge(asker, resource, utc_s)
        return verdict.is_permitted, earlier(verdict.expires_at, token.expires_at)

    # asking

    def _authorize(
        self, connection: Connection, chosen: Connection, resource: Resource, rendered: gateway.Resource, verdict: Verdict,
        now: Instant, utc_s: int,
    ) -> None:  # fmt: skip
        directory, device = self._directory, connection.device
        expires_at = earlier(verdict.expires_at, connection.token.expires_at)
        user = directory.book.users[device.owner_id]
        subject = Subject(
            directory.book.account, user, device, chosen.device, resource, verdict.policy_id or "", expires_at
        )  # fmt: skip
        flow = render.Flow(
            device, chosen.device, resource, pair_credentials(device, chosen.device), expires_at,
            self._tokens.mint(subject, INITIATOR, utc_s), self._tokens.mint(subject, RESPONDER, utc_s),
        )  # fmt: skip
        ref = self._pending.make_ref()
        order = render.authorize_flow(ref, flow, rendered, chosen.dialect)
        answer = render.flow_created(flow, connection.dialect)
        self._pending.add(ref, Pending(connection.number, chosen.number, resource.id, order, answer, now + ANSWER_TIMEOUT))
        directory.grants.put(Grant(device.id, resource.id, chosen.device.id, connection.token.id, resource.target, expires_at))
        directory.speaker.say(chosen, order)

    def _refuse(self, connection: Connection, message: client.CreateFlow, reason: str, violated: tuple[str, ...] = ()) -> None:
        failed = client.FlowCreationFailed(resource_id=message.resource_id, reason=reason, violated_properties=violated)
        self._directory.speaker.say(connection, failed)

    def _fail(self, pending: Pending) -> None:
        """The gateway that was asked did not answer."""
        asker = self._directory.presence.get(pending.client_connection)
        if asker is not None and asker.is_joined:
            failed = client.FlowCreationFailed(resource_id=pending.resource_id, reason=client.OFFLINE)
            self._directory.speaker.say(asker, failed)
