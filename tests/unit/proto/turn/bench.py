"""One allocation on a virtual clock, and answers as a relay would give them."""

from __future__ import annotations

from dataclasses import dataclass, field

from firezone.base.net import Endpoint, Transmit
from firezone.base.rng import SeededRng
from firezone.base.timing import SECOND, Instant, seconds
from firezone.proto.turn.allocation import Allocation
from firezone.proto.turn.channels import decode_channel_data
from firezone.proto.turn.events import AllocationEvent, CandidateFound, CandidateLost, ChannelChanged
from firezone.proto.turn.messages import Credentials
from firezone.wire import stun
from firezone.wire.candidate import CandidateKind
from firezone.wire.stun import Attribute, ErrorCode, MessageClass, Method, Value

START: Instant = 1000 * SECOND
RELAY4 = Endpoint.from_text("203.0.113.10", 3478)
RELAY6 = Endpoint.from_text("2001:db8::10", 3478)
LOCAL4 = Endpoint.from_text("192.168.1.5", 52625)
LOCAL6 = Endpoint.from_text("2001:db8:1::5", 52625)
MAPPED4 = Endpoint.from_text("198.51.100.7", 40000)
MAPPED6 = Endpoint.from_text("2001:db8:1::7", 40000)
LENT4 = Endpoint.from_text("203.0.113.10", 50000)
LENT6 = Endpoint.from_text("2001:db8::10", 50000)
PEER = Endpoint.from_text("198.51.100.99", 52625)
PEER6 = Endpoint.from_text("2001:db8:2::99", 52625)
USERNAME, PASSWORD, REALM = "1700000000:c2FsdA", "secret", "firezone"
KEY = stun.long_term_key(USERNAME, REALM, PASSWORD)


class SlowGate:
    """The slow twin of `kernels.channel.ChannelTable`."""

    def __init__(self) -> None:
        self.relays: dict[Endpoint, dict[int, bool]] = {}

    def add_relay(self, relay: Endpoint) -> None:
        self.relays.setdefault(relay, {})

    def remove_relay(self, relay: Endpoint) -> None:
        self.relays.pop(relay, None)

    def open(self, relay: Endpoint, number: int) -> None:
        self.relays[relay][number] = False

    def close(self, relay: Endpoint, number: int) -> None:
        self.relays.get(relay, {}).pop(number, None)

    def has_received(self, relay: Endpoint, number: int) -> bool:
        return self.relays.get(relay, {}).get(number, False)


def peer(number: int) -> Endpoint:
    """One of many."""
    return Endpoint((10 << 24 | number).to_bytes(4, "big"), 1000)


@dataclass
class Sent:
    """A request as the relay sees it."""

    at: Instant
    server: Endpoint
    received: stun.Received

    @property
    def message(self) -> stun.Message:
        return self.received.message

    @property
    def method(self) -> int:
        return self.message.method

    def get(self, attribute: int) -> Value | None:
        return self.message.get(attribute)


@dataclass
class Bench:
    """The allocation, its clock and what it said."""

    servers: tuple[Endpoint, ...] = (RELAY4,)
    seed: int = 1
    password: str = PASSWORD
    now: Instant = START
    latency: int = 0
    gate: SlowGate = field(default_factory=SlowGate)
    sent: list[Sent] = field(default_factory=list)
    data: list[tuple[int, bytes]] = field(default_factory=list)
    events: list[AllocationEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        credentials = Credentials.from_password(USERNAME, self.password)
        self.allocation = Allocation(self.servers, credentials, gate=self.gate, rng=SeededRng(self.seed), now=self.now)
        self.collect()

    # what it said

    def collect(self) -> None:
        while (transmit := self.allocation.poll_transmit()) is not None:
            self.take(transmit)
        while (event := self.allocation.poll_event()) is not None:
            self.events.append(event)

    def take(self, transmit: Transmit | None) -> None:
        if transmit is None:
            return
        assert transmit.source is None
        framed = decode_channel_data(transmit.payload)
        if framed is not None:
            self.data.append(framed)
        else:
            self.sent.append(Sent(self.now, transmit.destination, stun.decode(transmit.payload)))

    def of(self, method: Method, since: Instant = 0) -> list[Sent]:
        return [sent for sent in self.sent if sent.method == method and sent.at >= since]

    def last(self, method: Method) -> Sent:
        return self.of(method)[-1]

    def take_sent(self) -> list[Sent]:
        sent, self.sent = self.sent, []
        return sent

    def take_events(self) -> list[AllocationEvent]:
        events, self.events = self.events, []
        return events

    def lost(self) -> list[Endpoint]:
        return [event.candidate.endpoint for event in self.events if isinstance(event, CandidateLost)]

    def found(self, kind: CandidateKind) -> list[Endpoint]:
        found = [event.candidate for event in self.events if isinstance(event, CandidateFound)]
        return [candidate.endpoint for candidate in found if candidate.kind is kind]

    def changed(self) -> list[Endpoint]:
        return [event.peer for event in self.events if isinstance(event, ChannelChanged)]

    # time

    def run(self, duration: float) -> None:
        """Lets so many seconds pass, waking the allocation at its deadlines only."""
        end = self.now + seconds(duration)
        while (due := self.allocation.poll_timeout()) is not None and due[0] <= end:
            assert due[0] > self.now or self._progresses(), f"time stands still: {due}"
            self.now = max(self.now, due[0])
            self.allocation.handle_timeout(self.now)
            self.collect()
        self.now = end

    def _progresses(self) -> bool:
        """Whether a deadline in the past moves once it is heeded."""
        self.allocation.handle_timeout(self.now)
        self.collect()
        due = self.allocation.poll_timeout()
        return due is None or due[0] > self.now

    # what the relay says

    def answer(
        self, sent: Sent, *attributes: tuple[int, Value], key: bytes | None = KEY, error: int = 0, sign: bool = True
    ) -> bool:
        """Answers a request; BINDINGs are not signed."""
        message_class = MessageClass.ERROR if error else MessageClass.SUCCESS
        values = (*attributes, *(((Attribute.ERROR_CODE, ErrorCode(error)),) if error else ()))
        message = stun.Message(message_class, sent.method, sent.message.transaction_id, values)
        datagram = stun.encode(message, key=key if sign and sent.method != Method.BINDING else None)
        local = LOCAL4 if sent.server.is_ipv4 else LOCAL6
        taken = self.allocation.handle_message(local, sent.server, stun.decode(datagram), self.now)
        self.collect()
        return taken

    def bound(self, server: Endpoint = RELAY4) -> None:
        """Answers the last BINDING to a socket."""
        sent = next(sent for sent in reversed(self.of(Method.BINDING)) if sent.server == server)
        self.answer(sent, (Attribute.XOR_MAPPED_ADDRESS, MAPPED4 if server.is_ipv4 else MAPPED6))

    def challenge(self, sent: Sent, nonce: str = "n1", code: int = 401, realm: str = REALM) -> None:
        self.answer(sent, (Attribute.REALM, realm), (Attribute.NONCE, nonce), error=code)

    def grant(self, *lent: Endpoint, lifetime: int = 600) -> None:
        """Answers the last ALLOCATE."""
        addresses = [(Attribute.XOR_RELAYED_ADDRESS, endpoint) for endpoint in lent or (LENT4,)]
        self.answer(self.last(Method.ALLOCATE), *addresses, (Attribute.LIFETIME, lifetime))

    def refresh(self, lifetime: int = 600) -> None:
        self.answer(self.last(Method.REFRESH), (Attribute.LIFETIME, lifetime))

    def allocated(self, *lent: Endpoint) -> Bench:
        """Goes through the whole start."""
        self.bound(self.servers[0])
        self.challenge(self.last(Method.ALLOCATE))
        self.grant(*lent)
        return self

    def bind(self, peer: Endpoint = PEER) -> Sent:
        """Asks for a channel and returns the request."""
        self.allocation.bind_channel(peer, self.now)
        self.collect()
        return self.last(Method.CHANNEL_BIND)

    def bind_nothing(self, peer: Endpoint = PEER) -> None:
        """Asks for a channel and finds that nothing is sent."""
        before = len(self.sent)
        self.allocation.bind_channel(peer, self.now)
        self.collect()
        assert len(self.sent) == before

    def channel(self, peer: Endpoint = PEER) -> int:
        """Binds a channel and has it granted."""
        request = self.bind(peer)
        self.answer(request)
        number = request.get(Attribute.CHANNEL_NUMBER)
        assert isinstance(number, int)
        return number

    def send(self, peer: Endpoint = PEER, payload: bytes = b"payload") -> None:
        self.take(self.allocation.encapsulate(peer, payload, self.now))
        self.collect()

    def receive(self, number: int) -> tuple[Endpoint, Endpoint] | None:
        return self.allocation.decapsulate(RELAY4, number, self.now)

    def keep_alive(self, duration: float) -> None:
        """Lets time pass with a relay that answers BINDINGs and REFRESHes."""
        end = self.now + seconds(duration)
        while (due := self.allocation.poll_timeout()) is not None and due[0] <= end:
            self.take_sent()
            self.run((due[0] - self.now) / SECOND)
            for sent in self.take_sent():
                if sent.method == Method.BINDING:
                    self.answer(sent, (Attribute.XOR_MAPPED_ADDRESS, MAPPED4))
                elif sent.method == Method.REFRESH:
                    self.answer(sent, (Attribute.LIFETIME, 600))
                else:
                    self.sent.append(sent)
                    self.kept.append(sent)
        self.run((end - self.now) / SECOND)

    kept: list[Sent] = field(default_factory=list)
    """Other requests seen by `keep_alive`."""


def times(sent: list[Sent]) -> list[float]:
    """Returns the seconds since the start at which requests were sent."""
    return [(request.at - START) / SECOND for request in sent]
