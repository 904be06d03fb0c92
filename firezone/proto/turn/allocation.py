"""Our side of one relay: whether it can be reached, the addresses it lends us, the channels through which we use them.

    start ── BINDING to each socket ── first answer: that socket is used ── ALLOCATE ── lent addresses, channels
      ▲                                        │ no answer                     │ REFRESH at half the lifetime, BINDING every 25 s
      └── update_relays: probe() ◀── suspended ┴── dead (freed) ◀── given up ──┘

An allocation never asks for time by itself more than its next deadline. It is driven by `snownet.relays`, which takes its events
and transmits after every input and drops it when `end_reason` says so.

Errors of the relay: 401 and 438 bring a nonce to try again with; 437 means that both sides disagree whether there is an
allocation, so everything is forgotten and begun anew; 420 ends it; any other to ALLOCATE leaves it suspended until the portal
speaks of the relay again. A relay that answers so for ever is cut off after a few rounds, where the original would go on as fast
as it is answered.

Source: RFC 8656, RFC 8489 section 9.2; Firezone's `allocation.rs`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from firezone.base.net import Endpoint, Transmit
from firezone.base.rng import Rng
from firezone.base.timing import SECOND, Instant
from firezone.proto.ice.candidates import host_candidate, reflexive_candidate
from firezone.proto.turn import messages
from firezone.proto.turn.addresses import Addresses
from firezone.proto.turn.channels import Channel, ChannelGate, Channels, encode_channel_data
from firezone.proto.turn.events import AllocationEvent, CandidateFound, ChannelBound, ChannelChanged, RelaySilent
from firezone.proto.turn.messages import Code, Credentials, Template
from firezone.proto.turn.recovery import Recoveries
from firezone.proto.turn.requests import MAX_CHALLENGES, PROBING, Request, Requests, is_credible
from firezone.proto.turn.silence import Silence
from firezone.wire.stun import TRANSACTION_ID_SIZE, Attribute, MessageClass, Method, Received

KEEP_ALIVE = 25 * SECOND
"""Between two datagrams to a relay. NATs forget a UDP mapping after 30 s at the earliest."""
RETRY_REFRESH = 30 * SECOND
"""After a relay refused a REFRESH without saying that the allocation is gone."""
MAX_WAITING = 100
"""Peers that wait for an allocation to bind a channel on; the oldest are forgotten."""

SILENT = "silent while others answer"
"""An `end_reason`."""


class Allocation:
    """The TURN client of one relay."""

    def __init__(
        self, servers: Iterable[Endpoint], credentials: Credentials, *, gate: ChannelGate | None, rng: Rng, now: Instant
    ) -> None:
        """Starts at once: a BINDING goes to each of the relay's sockets. `gate` is told which channels may be received on."""
        self.servers = tuple(servers)
        self.rtt: int | None = None
        """Smoothed time between a request and its answer, in nanoseconds; None before the first."""
        self._credentials: Credentials | None = credentials
        self._gate = gate
        self._rng = rng
        self._active: Endpoint | None = None
        self._mapped: Endpoint | None = None  # What the active server sees us as.
        self._keep_alive_at: Instant = 0
        self._addresses = Addresses()
        self._expires_at: Instant | None = None
        self._refresh_at: Instant = 0
        self._silence = Silence(now)
        self._requests = Requests()
        self._channels = Channels()
        self._waiting: dict[Endpoint, None] = {}
        self._failure: str | None = None
        self._recoveries = Recoveries()
        self._transmits: deque[Transmit] = deque()
        self._events: deque[AllocationEvent] = deque()
        for server in self.servers:
            if gate is not None:
                gate.add_relay(server)
        self._bind_sockets(now)

    # inputs

    def handle_message(self, local: Endpoint, remote: Endpoint, received: Received, now: Instant) -> bool:
        """Takes a STUN message of one of the relay's sockets. Returns whether it answers something we asked, authentically."""
        request = self._requests.get(received.message.transaction_id)
        is_answer = received.message.message_class in (MessageClass.SUCCESS, MessageClass.ERROR)
        if request is None or not is_answer or remote not in self.servers or received.message.method != request.template.method:
            return False
        error = received.message.get(Attribute.ERROR_CODE)
        code = None if error is None else error.code
        if received.message.message_class is MessageClass.ERROR and code is None:
            return False
        if not is_credible(request, received, code, self._credentials, may_recover=self._recoveries.may_begin(now)):
            return False
        self._silence.on_heard(now)
        self._measure(request, now)
        self._requests.remove(request)
        if received.message.message_class is MessageClass.SUCCESS:
            self._handle_success(request, local, received, now)
        elif code is not None:
            self._handle_error(request, code, received, now)
        return True

    def decapsulate(self, remote: Endpoint, number: int, now: Instant) -> tuple[Endpoint, Endpoint] | None:
        """Takes note of channel data.

        Returns: the lent address it arrived at and the peer it is from; None if it must be dropped.
        """
        channel = self._channels.by_number(number)
        if channel is None or not channel.is_confirmed or remote != self._active:
            return None
        lent = self._addresses.lent_to(channel.peer)
        if lent is None:
            return None
        channel.has_received = True
        self._silence.on_heard(now)
        return lent, channel.peer

    def bind_channel(self, peer: Endpoint, now: Instant) -> None:
        """Makes the relay pass data of this peer, as soon as there is an allocation."""
        if self.is_suspended:
            return
        if not self.has_allocation or self._active is None:
            self._wait(peer)
            return
        known = self._channels.by_peer(peer)
        if self._addresses.lent_to(peer) is None or (known is not None and known.is_sendable(now)):
            return
        channel = self._channels.bind(peer, now)
        if channel is not None:
            self._tell_changed(peer)
            self._request_channel(channel, now)

    def encapsulate(self, peer: Endpoint, payload: bytes, now: Instant) -> Transmit | None:
        """Returns the datagram that takes a payload to a peer. Without a channel one is asked for, and the payload is lost."""
        number = self.channel_to(peer, now)
        if number is None or self._active is None:
            self.bind_channel(peer, now)
            return None
        self.note_sent(now)
        self._silence.on_sent(now)
        return Transmit(None, self._active, encode_channel_data(number, payload))

    def note_sent(self, now: Instant) -> None:
        """Is told that channel data was sent: it keeps the NAT's mapping alive as well as a BINDING does."""
        self._keep_alive_at = now + KEEP_ALIVE

    def probe(self, now: Instant) -> None:
        """Asks whether the relay still knows us, because the portal spoke of its relays and not of this one."""
        if self.is_suspended:
            self.revive(now)
        elif self.has_allocation and self._active is not None and not self._is_asking(Method.REFRESH):
            self._ask(messages.refresh(), now, waits=PROBING)

    def revive(self, now: Instant) -> None:
        """Begins anew if it is suspended, because the portal spoke of this relay."""
        if self.is_suspended:
            self._active = None
            self._bind_sockets(now)

    def check(self, now: Instant) -> None:
        """Asks the relay whether it is there: quickly, and without giving it up if it is not."""
        if self.has_allocation and self._active is not None and not any(request.is_check for request in self._requests):
            self._silence.do_others_answer = False
            self._send(Request(messages.binding(), self._active, waits=PROBING, is_check=True), now)

    def note_others_answer(self) -> None:
        """Is told, while it is asked by `check`, that it is not our network that is silent."""
        self._silence.do_others_answer = True

    def handle_timeout(self, now: Instant) -> None:
        """Does what is due: expiry, keep-alive, retransmissions, refreshes."""
        if self.has_allocation and self._silence.is_due(now):
            self.check(now)
        if self._expires_at is not None and now >= self._expires_at:
            self._invalidate()
        if self.has_allocation and now >= self._keep_alive_at and self._active is not None:
            self._keep_alive_at = now + KEEP_ALIVE
            if not self._is_asking(Method.BINDING):
                self._send(Request(messages.binding(), self._active), now)
        for request in self._requests.due(now):
            if request in self._requests:  # an earlier one's failure may have taken the rest with it
                self._retransmit(request, now)
        if self.has_allocation and now >= self._refresh_at and not self._is_asking(Method.REFRESH):
            self._ask(messages.refresh(), now)
        self._review_channels(now)

    def close(self) -> None:
        """Ends it without a word to the relay: its lent addresses are lost, its channels closed."""
        self._invalidate()
        if self._gate is not None:
            for server in self.servers:
                self._gate.remove_relay(server)

    # outputs

    def poll_timeout(self) -> tuple[Instant, str] | None:
        """Returns when `handle_timeout` has something to do, and what."""
        deadlines: list[tuple[Instant, str]] = []
        if (due := self._requests.next_due()) is not None:
            deadlines.append((due, "TURN request"))
        if self._expires_at is not None:
            deadlines += [(self._expires_at, "TURN expiry"), (self._keep_alive_at, "TURN keep-alive")]
            if (silence := self._silence.deadline()) is not None:
                deadlines.append((silence, "TURN silence"))
            if not self._is_asking(Method.REFRESH):
                deadlines.append((self._refresh_at, "TURN refresh"))
            if (review := self._channels.next_review()) is not None:
                deadlines.append((review, "TURN channels"))
        return min(deadlines, default=None)

    def poll_transmit(self) -> Transmit | None:
        """Returns the next datagram to send; its source is left to the kernel."""
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> AllocationEvent | None:
        """Returns what happened next."""
        return self._events.popleft() if self._events else None

    # queries

    @property
    def has_allocation(self) -> bool:
        """Whether the relay lends us addresses, as far as we know."""
        return self._expires_at is not None

    @property
    def is_suspended(self) -> bool:
        """Whether nothing will happen any more unless somebody asks."""
        return not self.has_allocation and not self._requests

    @property
    def end_reason(self) -> str | None:
        """Why the allocation is of no use any more; None while it is or may become so."""
        if self._failure is not None:
            return self._failure
        if self._events or self._transmits or self._requests:
            return None
        if self._credentials is None:
            return "authentication error"
        return "no response" if self._active is None else None

    @property
    def heard_at(self) -> Instant:
        """When the relay was last heard of."""
        return self._silence.heard_at

    @property
    def active_server(self) -> Endpoint | None:
        """The relay's socket we use; None before it answered."""
        return self._active

    def candidates(self) -> list[CandidateFound]:
        """Returns everything known: own and seen addresses, then lent ones."""
        return self._addresses.all()

    def has_lent(self, endpoint: Endpoint) -> bool:
        """Tells whether this is one of the addresses lent to us."""
        return self._addresses.lent_to(endpoint) == endpoint

    def has_channel(self, peer: Endpoint) -> bool:
        """Tells whether the relay granted a channel to this peer."""
        channel = self._channels.by_peer(peer)
        return channel is not None and channel.is_confirmed

    def channel_to(self, peer: Endpoint, now: Instant) -> int | None:
        """Returns the channel number to send on; None without one."""
        channel = self._channels.by_peer(peer)
        return None if channel is None or not channel.is_sendable(now) else channel.number

    # answers

    def _measure(self, request: Request, now: Instant) -> None:
        """A request that was sent twice tells nothing: who knows which one was answered (RFC 6298 section 3)."""
        if request.attempts == 1:
            sample = now - request.sent_at
            self.rtt = sample if self.rtt is None else (7 * self.rtt + sample) // 8

    def _handle_success(self, request: Request, local: Endpoint, received: Received, now: Instant) -> None:
        match request.template.method:
            case Method.BINDING:
                self._handle_bound(request, local, received, now)
            case Method.ALLOCATE:
                self._handle_allocated(received, now)
            case Method.REFRESH:
                self._handle_refreshed(received, now)
            case _:
                self._handle_channel_bound(request, now)

    def _handle_bound(self, request: Request, local: Endpoint, received: Received, now: Instant) -> None:
        self._events += self._addresses.find(host_candidate(local))
        mapped = received.message.get(Attribute.XOR_MAPPED_ADDRESS)
        if mapped is not None and mapped.is_ipv4 == local.is_ipv4:
            self._events += self._addresses.find(reflexive_candidate(mapped, local))
        if self._active is None:
            self._active, self._mapped, self._keep_alive_at = request.server, mapped, now + KEEP_ALIVE
            self._ask(messages.refresh() if self.has_allocation else messages.allocate(), now)
        elif request.server == self._active and mapped != self._mapped:
            self._mapped = mapped
            self.probe(now)  # The relay knows us by our address: what it has lent belongs to the former one.

    def _handle_allocated(self, received: Received, now: Instant) -> None:
        lifetime, addresses = received.message.get(Attribute.LIFETIME), received.message.get_all(Attribute.XOR_RELAYED_ADDRESS)
        if not lifetime or not addresses or self._active is None:
            return
        for endpoint in addresses:
            self._events += self._addresses.lend(endpoint, crosses_family=endpoint.is_ipv4 != self._active.is_ipv4)
        self._live_for(lifetime, now)
        waiting, self._waiting = self._waiting, {}
        for peer in waiting:
            self.bind_channel(peer, now)

    def _handle_refreshed(self, received: Received, now: Instant) -> None:
        lifetime = received.message.get(Attribute.LIFETIME)
        if lifetime is None:
            self._refresh_at = now + RETRY_REFRESH
        elif lifetime == 0 or not self.has_allocation:
            self._invalidate()
            self._allocate_again(now)
        else:
            self._live_for(lifetime, now)

    def _handle_channel_bound(self, request: Request, now: Instant) -> None:
        channel = request.channel
        assert channel is not None
        was_sendable, was_confirmed = channel.is_sendable(now), channel.is_confirmed
        self._channels.confirm(channel, now)
        if self._gate is not None and self._active is not None:
            self._gate.open(self._active, channel.number)
        if not was_sendable:
            self._tell_changed(channel.peer)
        lent = self._addresses.lent_to(channel.peer)
        if not was_confirmed and lent is not None:
            self._events.append(ChannelBound(lent, channel.peer))

    def _handle_error(self, request: Request, code: int, received: Received, now: Instant) -> None:
        match code:
            case Code.UNAUTHORIZED | Code.STALE_NONCE:
                self._handle_challenge(request, code, received, now)
            case Code.BAD_REQUEST if received.integrity is None:
                request.is_bare = True
                self._repeat(request, now)
            case Code.ALLOCATION_MISMATCH:
                self._handle_mismatch(request, now)
            case Code.UNKNOWN_ATTRIBUTE:
                self._fail("the relay does not understand us")
            case _:
                self._handle_refusal(request, now)

    def _handle_challenge(self, request: Request, code: int, received: Received, now: Instant) -> None:
        """Tries again with the relay's nonce, unless it had its nonce already or answers so for ever."""
        assert self._credentials is not None
        is_rejected = code == Code.UNAUTHORIZED and request.nonce is not None
        if is_rejected or request.challenges >= MAX_CHALLENGES:
            self._credentials = None
            self._invalidate()
            return
        nonce, realm = received.message.get(Attribute.NONCE), received.message.get(Attribute.REALM)
        if nonce is not None:
            self._credentials = self._credentials.with_nonce(nonce)
        if realm is not None and realm != self._credentials.realm:
            self._handle_refusal(request, now)
            return
        self._repeat(request, now)

    def _handle_mismatch(self, request: Request, now: Instant) -> None:
        """Forgets everything and has the relay do so, too; then there is an allocation again."""
        if not self._recoveries.may_begin(now):
            self._fail("the relay forgets our allocation again and again")
            return
        self._recoveries.begin(now)
        self._invalidate()
        if request.channel is not None:
            self._wait(request.channel.peer)
        self._ask(messages.release() if request.template.method is Method.ALLOCATE else messages.allocate(), now)

    def _handle_refusal(self, request: Request, now: Instant) -> None:
        match request.template.method:
            case Method.ALLOCATE:
                self._waiting.clear()
            case Method.REFRESH:
                self._refresh_at = now + RETRY_REFRESH
            case Method.CHANNEL_BIND:
                self._abandon(request)

    def _allocate_again(self, now: Instant) -> None:
        """After the relay was made to forget: at once, later if that was said to be too early."""
        assert self._active is not None
        request = Request(messages.allocate(), self._active)
        if (delay := self._recoveries.delay()) > 0:
            self._requests.postpone(request, now + delay)
        else:
            self._send(request, now)

    # requests

    def _bind_sockets(self, now: Instant) -> None:
        for server in self.servers:
            self._send(Request(messages.binding(), server), now)

    def _ask(self, template: Template, now: Instant, **options: Any) -> None:
        """Sends an authenticated request to the socket in use."""
        assert self._active is not None
        self._send(Request(template, self._active, **options), now)

    def _is_asking(self, method: Method) -> bool:
        return any(request.template.method is method for request in self._requests)

    def _request_channel(self, channel: Channel, now: Instant) -> None:
        self._ask(messages.channel_bind(channel.peer, channel.number), now, channel=channel)

    def _send(self, request: Request, now: Instant) -> None:
        credentials = self._credentials if request.template.is_authenticated else None
        if request.is_bare and credentials is not None and credentials.nonce is None:
            credentials = None
        repeats = request.ids[0] if request.ids and not request.template.is_authenticated else None
        transaction_id = repeats or self._rng.bytes(TRANSACTION_ID_SIZE)
        request.nonce = None if credentials is None else credentials.nonce
        self._requests.record(request, transaction_id, now)
        self._transmits.append(Transmit(None, request.server, request.template.encode(transaction_id, credentials)))

    def _repeat(self, request: Request, now: Instant) -> None:
        """Sends a request that was answered again, with what the answer asked for."""
        request.challenges += 1
        request.start_over()
        self._send(request, now)

    def _retransmit(self, request: Request, now: Instant) -> None:
        if not request.is_exhausted:
            if request.is_check:
                self._events.append(RelaySilent(request.first_at))
            self._send(request, now)
            return
        self._requests.remove(request)
        if request.is_check:
            if self._silence.do_others_answer:
                self._fail(SILENT)
            return
        if self._active is not None and request.server.is_ipv4 == self._active.is_ipv4:
            self._active = None
            self._invalidate()

    def _abandon(self, request: Request) -> None:
        """Gives up one request; a channel it was to bind is gone."""
        channel = request.channel
        if channel is not None and self._channels.by_number(channel.number) is channel:
            self._channels.forget(channel)
            self._close_gate(channel)
            self._tell_changed(channel.peer)

    # state

    def _live_for(self, lifetime: int, now: Instant) -> None:
        self._expires_at = now + lifetime * SECOND
        self._refresh_at = now + lifetime * SECOND // 2

    def _wait(self, peer: Endpoint) -> None:
        self._waiting[peer] = None
        if len(self._waiting) > MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]

    def _invalidate(self) -> None:
        """Forgets the allocation, its channels and everything asked; own and seen addresses, and who waits, stay."""
        for channel in self._channels:
            self._close_gate(channel)
            self._tell_changed(channel.peer)
        self._channels = Channels()
        self._requests.clear()
        self._events += self._addresses.forget_lent()
        self._expires_at = None

    def _fail(self, reason: str) -> None:
        """Ends it for good; nothing is sent any more."""
        self._failure = reason
        self._active = None
        self._invalidate()

    def _tell_changed(self, peer: Endpoint) -> None:
        lent = self._addresses.lent_to(peer)
        if lent is not None:
            self._events.append(ChannelChanged(lent, peer))

    def _close_gate(self, channel: Channel) -> None:
        if self._gate is None:
            return
        for server in self.servers:
            self._gate.close(server, channel.number)

    def _review_channels(self, now: Instant) -> None:
        """Binds again what is in use, and stops sending on what is not."""
        refresh, expired = self._channels.review(now, self._has_received)
        for channel in refresh:
            if self._active is not None:
                self._request_channel(channel, now)
        for channel in expired:
            self._close_gate(channel)
            self._tell_changed(channel.peer)

    def _has_received(self, channel: Channel) -> bool:
        return self._gate is not None and self._active is not None and self._gate.has_received(self._active, channel.number)
