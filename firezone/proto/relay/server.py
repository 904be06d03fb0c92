"""The TURN server as a pure machine: control messages in, answers and changes of the compiled tables out.

It never sees channel data. Whoever owns the sockets hands it what the compiled path punts: STUN on the listen port and, in
stand-alone mode, datagrams of peers that have a permission but no channel. Sockets are opened and tables written *before* the
answer is queued, so a client may send the moment it reads "success".

Stand-alone mode is for ordinary TURN clients without a portal: permissions are real, Send and Data indications work, and one
user may hold several allocations. A user made by a portal is one client or gateway, and its newest allocation replaces the last
(a NAT that gave it another port would otherwise leave one behind whose channels conflict).

Source: RFC 8656, RFC 8489 section 9.2; relay specification, sections 4 to 8 and 16.
"""

from __future__ import annotations

from collections import deque

import structlog

from firezone.base.limits import MAX_RELAY_REPLIES
from firezone.base.net import Endpoint
from firezone.base.rng import Rng
from firezone.base.secret import SecretText
from firezone.base.timing import SECOND, Instant, UnixTime
from firezone.proto.relay.allocations import (
    CHANNEL_LIFETIME,
    PERMISSION_LIFETIME,
    Allocation,
    Allocations,
    Channel,
    Permission,
    RelayLimits,
    choose_families,
    effective_lifetime_s,
)
from firezone.proto.relay.auth import NonceCheck, Nonces, Username
from firezone.proto.relay.counters import RelayCounters
from firezone.proto.relay.replies import Replies, channel_data, data_indication, software
from firezone.proto.relay.requests import LAST_CHANNEL, LAST_OLD_CHANNEL, METHODS, Refused, Request, read_request
from firezone.proto.relay.tables import ChannelStore, PortBinder, RelayTransmit
from firezone.proto.relay.timers import Timers
from firezone.wire.stun import TRANSACTION_ID_SIZE, Attribute, MessageClass, Method

log = structlog.get_logger(__name__)

UDP = 17
MAX_INDICATION_DATA = 65_507 - 52
"""What a Data indication takes of the largest UDP payload over IPv4: header 20, IPv6 peer 24, attribute 4, padding 3, and one."""

_MANDATORY: dict[int, tuple[Attribute, ...]] = {
    Method.ALLOCATE: (Attribute.REQUESTED_TRANSPORT,),
    Method.CHANNEL_BIND: (Attribute.CHANNEL_NUMBER, Attribute.XOR_PEER_ADDRESS),
}
"""Without these a request is answered 400 before its credentials are looked at."""


class RelayServer:
    """Everything a relay decides.

    Args: `public_ip4`, `public_ip6`: 4 and 16 bytes, at least one of them; ports are inclusive; `now` and `utc` are the same
          moment on both clocks; `revision` is the release's commit id.
    """

    def __init__(
        self,
        *,
        public_ip4: bytes | None,
        public_ip6: bytes | None,
        lowest_port: int,
        highest_port: int,
        secret: SecretText,
        rng: Rng,
        now: Instant,
        utc: UnixTime,
        channels: ChannelStore,
        ports: PortBinder,
        limits: RelayLimits | None = None,
        stands_alone: bool = False,
        revision: str | None = None,
    ) -> None:
        if public_ip4 is None and public_ip6 is None:
            raise ValueError("A relay needs a public address.")
        if not 0 < lowest_port <= highest_port <= 0xFFFF:
            raise ValueError(f"{lowest_port} to {highest_port} is no range of ports.")
        self.counters = RelayCounters()
        self._public = {4: public_ip4, 6: public_ip6}
        self._families = tuple(family for family, ip in self._public.items() if ip is not None)
        self._secret = secret
        self._rng = rng
        self._utc_offset = utc - now
        self._store = channels
        self._limits = limits or RelayLimits()
        self._stands_alone = stands_alone
        self._last_channel = LAST_OLD_CHANNEL if stands_alone else LAST_CHANNEL
        self._replies = Replies(software(revision) if revision else software())
        self._nonces = Nonces(rng)
        self._allocations = Allocations(lowest_port, highest_port, self._limits, rng, ports)
        self._timers: Timers[Allocation | Channel | Permission] = Timers()
        self._channel_count = 0
        """Cooling ones included."""
        self._outgoing: deque[RelayTransmit] = deque(maxlen=MAX_RELAY_REPLIES)

    def set_clock(self, now: Instant, utc: UnixTime) -> None:
        """Learns the wall clock anew: it decides when credentials die, and somebody may have set it."""
        self._utc_offset = utc - now

    def knows(self, client: Endpoint) -> bool:
        """Tells whether an address has an allocation."""
        return self._allocations.of_client(client) is not None

    def handle_datagram(self, local: Endpoint, remote: Endpoint, datagram: bytes, now: Instant) -> None:
        """Takes a datagram on the listen port that is not channel data. Any bytes will do; none raise.

        Args: `local` is where it arrived and where the answer leaves from.
        """
        request = read_request(datagram) if remote.port else None  # from port 0 nothing can be answered
        match request:
            case None:
                self.counters.ignored += 1
            case Refused():
                self._refuse(local, remote, request.method, request.transaction_id, request.code)
            case Request(message_class=MessageClass.INDICATION):
                self._handle_indication(local, remote, request, now)
            case Request(method=Method.BINDING):
                self.counters.responded(Method.BINDING)
                self._reply(local, remote, self._replies.binding(request.transaction_id, remote))
            case Request() if request.method not in METHODS or not _is_complete(request, self._last_channel):
                self._refuse(local, remote, request.method, request.transaction_id, 400)
            case Request():
                self._handle_authenticated(local, remote, request, now)

    def handle_peer_datagram(self, port: int, peer: Endpoint, data: bytes, now: Instant) -> None:
        """Takes a datagram from a peer without a channel that the tables let through for its permission."""
        allocation = self._allocations.of_port(port)
        if allocation is None or not self._deliver(allocation, peer, data):
            self.counters.ignored += 1

    def handle_timeout(self, now: Instant) -> None:
        """Ends what has expired by now."""
        while (item := self._timers.pop_due(now)) is not None:
            match item:
                case Allocation():
                    log.debug("allocation expired", port=item.port)
                    self._delete(item)
                case Channel():
                    self._expire_channel(item)
                case Permission():
                    self._revoke(item)

    def poll_timeout(self) -> tuple[Instant, str] | None:
        """Returns when `handle_timeout` must be called: exactly the next expiry."""
        due = self._timers.next_due()
        return None if due is None else (due, "relay: expiry of an allocation, channel or permission")

    def poll_transmit(self) -> RelayTransmit | None:
        """Returns the next datagram to send."""
        return self._outgoing.popleft() if self._outgoing else None

    # ---- requests

    def _handle_authenticated(self, local: Endpoint, client: Endpoint, request: Request, now: Instant) -> None:
        """Checks credentials in the order clients rely on, then does what is asked.

        A stale nonce must never come out as 401, which Firezone's client takes for "credentials invalid, give up"; and even a
        refusal is signed where the username tells the key, since it believes no other.
        """
        text = request.get(Attribute.USERNAME)
        username = None if text is None else Username.from_text(text)
        if text is not None and username is None:
            self.counters.ignored += 1  # we could not sign the answer
            log.debug("username of an unknown form")
            return
        key = None if username is None else username.key(self._secret)
        code = self._authenticate(client, request, username, key, now)
        if username is None or key is None or code is not None:
            nonce = self._nonces.current(client, now)
            self._refuse(local, client, request.method, request.transaction_id, code or 401, nonce=nonce, key=key)
            return
        result = self._perform(client, request, username, key, now)
        if isinstance(result, int):
            self._refuse(local, client, request.method, request.transaction_id, result, key=key)
            return
        self.counters.responded(request.method)
        self._reply(local, client, result)

    def _authenticate(
        self, client: Endpoint, request: Request, username: Username | None, key: bytes | None, now: Instant
    ) -> int | None:
        """Returns the error code, None for a request we believe. The nonce loses a use whatever follows."""
        nonce = request.get(Attribute.NONCE)
        if request.integrity is None or username is None or key is None or nonce is None:
            return 401
        checked = self._nonces.use(client, nonce, now)
        if checked is not NonceCheck.GOOD:
            log.debug("nonce refused", why=checked.value)
            return 438 if checked is NonceCheck.STALE else 401
        if username.has_expired(now + self._utc_offset):
            log.debug("credentials expired", username=username.text)
            return 401
        if not request.verify_integrity(key):
            log.debug("wrong password", username=username.text)
            return 401
        return None

    def _perform(self, client: Endpoint, request: Request, username: Username, key: bytes, now: Instant) -> bytes | int:
        """Does what an authenticated request asks. Returns the answer, or an error code."""
        match request.method:
            case Method.ALLOCATE:
                return self._allocate(client, request, username, key, now)
            case Method.REFRESH:
                return self._refresh(client, request, key, now)
            case Method.CHANNEL_BIND:
                return self._bind(client, request, now) or self._replies.done(request.method, request.transaction_id, key)
            case _:
                return self._permit(client, request, now) or self._replies.done(request.method, request.transaction_id, key)

    def _allocate(self, client: Endpoint, request: Request, username: Username, key: bytes, now: Instant) -> bytes | int:
        if self._allocations.of_client(client) is not None:
            log.debug("client has an allocation already")
            return 437
        if not self._allocations.has_room(client.ip):
            log.warning("no port left for another allocation", allocations=len(self._allocations))
            return 508
        if request.get(Attribute.REQUESTED_TRANSPORT) != UDP:
            log.warning("allocation for another transport than UDP", protocol=request.get(Attribute.REQUESTED_TRANSPORT))
            return 400
        requested, additional = request.get(Attribute.REQUESTED_ADDRESS_FAMILY), request.get(Attribute.ADDITIONAL_ADDRESS_FAMILY)
        families = choose_families(self._families, requested, additional)
        if isinstance(families, int):
            log.info("address families that cannot be had", requested=requested, additional=additional)
            return families
        shares = self._stands_alone and not username.is_of_device
        previous = None if shares else self._allocations.of_user(username.text)
        if previous is not None:
            log.debug("allocation replaced: the user came back from another address", port=previous.port)
            self._delete(previous)
        lifetime_s = effective_lifetime_s(request.get(Attribute.LIFETIME))
        allocation = self._allocations.create(client, username.text, families, now + lifetime_s * SECOND)
        if allocation is None:
            log.warning("no port could be opened")
            return 508
        self._store.admit(client)
        self.counters.allocations += 1
        self._timers.set(allocation, allocation.expires)
        log.debug("allocation created", port=allocation.port, families=families, lifetime_s=lifetime_s)
        relayed = [Endpoint(ip, allocation.port) for family in families if (ip := self._public[family]) is not None]
        return self._replies.allocate(request.transaction_id, relayed, client, lifetime_s, key)

    def _refresh(self, client: Endpoint, request: Request, key: bytes, now: Instant) -> bytes | int:
        allocation = self._allocations.of_client(client)
        if allocation is None:
            log.info("refresh without an allocation")
            return 437
        lifetime_s = effective_lifetime_s(request.get(Attribute.LIFETIME))
        if lifetime_s:
            allocation.expires = now + lifetime_s * SECOND
            self._timers.set(allocation, allocation.expires)
        else:
            log.debug("allocation freed", port=allocation.port)
            self._delete(allocation)
        return self._replies.refresh(request.transaction_id, lifetime_s, key)

    def _bind(self, client: Endpoint, request: Request, now: Instant) -> int | None:
        allocation = self._allocations.of_client(client)
        number, peer = request.get(Attribute.CHANNEL_NUMBER), request.get(Attribute.XOR_PEER_ADDRESS)
        if allocation is None:
            log.info("channel without an allocation")
            return 437
        if not allocation.relays_to(peer):
            log.warning("channel to an address family the allocation lacks", port=allocation.port)
            return 443
        channel = allocation.channels.get(number)
        if allocation.numbers.get(peer, number) != number or (channel is not None and channel.peer != peer):
            log.warning("channel conflicts with another", port=allocation.port, number=number)
            return 400
        if channel is None:
            if not self._has_room_for_channel(allocation):
                log.warning("no room for another channel", port=allocation.port, channels=len(allocation.channels))
                return 508
            channel = allocation.channels[number] = Channel(allocation, number, peer, now, is_bound=False)
            allocation.numbers[peer] = number
            self._channel_count += 1
        self.counters.channels += not channel.is_bound
        channel.is_bound, channel.expires = True, now + CHANNEL_LIFETIME
        self._timers.set(channel, channel.due)
        self._store.bind(client, number, peer, allocation.port)
        if self._stands_alone:
            self._allow(allocation, peer.ip, now + CHANNEL_LIFETIME)
        return None

    def _permit(self, client: Endpoint, request: Request, now: Instant) -> int | None:
        """CreatePermission. With a portal nobody needs permissions, and generic clients must not fail for asking."""
        if not self._stands_alone:
            return None
        allocation = self._allocations.of_client(client)
        if allocation is None:
            return 437
        if not request.peers:
            return 400
        if not all(allocation.relays_to(peer) for peer in request.peers):
            return 443
        new = {peer.ip for peer in request.peers} - allocation.permissions.keys()
        if new and not self._has_room_for_permissions(allocation, len(new)):
            log.warning("too many permissions", port=allocation.port)
            return 508
        for peer in request.peers:
            self._allow(allocation, peer.ip, now + PERMISSION_LIFETIME)
        return None

    def _handle_indication(self, local: Endpoint, client: Endpoint, request: Request, now: Instant) -> None:
        """Relays a Send indication to a permitted peer; nothing is ever answered to indications."""
        peer, data = request.get(Attribute.XOR_PEER_ADDRESS), request.get(Attribute.DATA)
        allocation = self._allocations.of_client(client) if self._stands_alone and request.method == Method.SEND else None
        if allocation is None or peer is None or data is None or peer.ip not in allocation.permissions:
            self.counters.ignored += 1
            return
        self.counters.indications_sent += 1
        ours = self._public[4 if peer.is_ipv4 else 6]
        other = self._allocations.of_port(peer.port) if peer.ip == ours else None
        if ours is not None and other is not None:  # both ends are our clients: no network would bring it back here
            self._deliver(other, Endpoint(ours, allocation.port), data)
        else:
            self._outgoing.append(RelayTransmit(allocation.port, None, peer, data))

    def _deliver(self, allocation: Allocation, peer: Endpoint, data: bytes) -> bool:
        """Hands a peer's datagram to the client as channel data or Data indication, if it asked for either."""
        if len(data) > MAX_INDICATION_DATA:
            return False
        channel = allocation.channels.get(allocation.numbers.get(peer, 0))
        if channel is not None and channel.is_bound:
            payload = channel_data(channel.number, data)
        elif peer.ip in allocation.permissions:
            self.counters.indications_sent += 1
            payload = data_indication(self._rng.bytes(TRANSACTION_ID_SIZE), peer, data)
        else:
            return False
        self._outgoing.append(RelayTransmit(None, None, allocation.client, payload))
        return True

    # ---- state

    def _has_room_for_channel(self, allocation: Allocation) -> bool:
        return self._channel_count < self._limits.channels and len(allocation.channels) < self._limits.channels_per_allocation

    def _has_room_for_permissions(self, allocation: Allocation, count: int) -> bool:
        of_all, of_one = self.counters.permissions + count, len(allocation.permissions) + count
        return of_all <= self._limits.permissions and of_one <= self._limits.permissions_per_allocation

    def _expire_channel(self, channel: Channel) -> None:
        """Bound becomes cooling, cooling is forgotten."""
        allocation = channel.allocation
        if channel.is_bound:
            channel.is_bound = False
            self.counters.channels -= 1
            self._timers.set(channel, channel.due)
            self._store.unbind(allocation.client, channel.number)
            return
        del allocation.channels[channel.number], allocation.numbers[channel.peer]
        self._channel_count -= 1

    def _allow(self, allocation: Allocation, ip: bytes, expires: Instant) -> None:
        permission = allocation.permissions.get(ip)
        if permission is None:
            permission = allocation.permissions[ip] = Permission(allocation, ip, expires)
            self.counters.permissions += 1
            self._store.allow(allocation.port, allocation.client, ip)
        permission.expires = max(permission.expires, expires)
        self._timers.set(permission, permission.expires)

    def _revoke(self, permission: Permission) -> None:
        allocation = permission.allocation
        del allocation.permissions[permission.ip]
        self.counters.permissions -= 1
        self._store.revoke(allocation.port, allocation.client, permission.ip)

    def _delete(self, allocation: Allocation) -> None:
        """Takes everything a client holds; its numbers and peers are free at once for its next allocation."""
        for channel in allocation.channels.values():
            self._timers.cancel(channel)
            self.counters.channels -= channel.is_bound
            self._channel_count -= 1
            if channel.is_bound:
                self._store.unbind(allocation.client, channel.number)
        for permission in list(allocation.permissions.values()):
            self._timers.cancel(permission)
            self._revoke(permission)
        allocation.channels.clear()
        allocation.numbers.clear()
        self._timers.cancel(allocation)
        self.counters.allocations -= 1
        self._store.dismiss(allocation.client)
        self._allocations.remove(allocation)

    # ---- answers

    def _refuse(
        self,
        local: Endpoint,
        client: Endpoint,
        method: int,
        transaction_id: bytes,
        code: int,
        *,
        nonce: str | None = None,
        key: bytes | None = None,
    ) -> None:
        self.counters.responded(method, code)
        self._reply(local, client, self._replies.error(method, transaction_id, code, nonce=nonce, key=key))

    def _reply(self, local: Endpoint, client: Endpoint, payload: bytes) -> None:
        self._outgoing.append(RelayTransmit(None, local, client, payload))


def _is_complete(request: Request, last_channel: int) -> bool:
    """Tells whether a request carries what its method asks for, and no channel number that we do not have."""
    if (request.get(Attribute.CHANNEL_NUMBER) or 0) > last_channel:
        return False
    return all(request.get(attribute) is not None for attribute in _MANDATORY.get(request.method, ()))
