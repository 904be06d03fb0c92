"""Two ICE agents on a virtual clock, joined by a link that can lose, translate and record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from firezone.base.net import Endpoint
from firezone.base.rng import SeededRng
from firezone.base.timing import MILLISECOND, Instant, seconds
from firezone.proto.ice.agent import IceAgent
from firezone.proto.ice.candidates import host_candidate
from firezone.proto.ice.checks import IceCredentials, encode_request
from firezone.proto.ice.events import IceState, IceTransmit, Nominated, StateChanged
from firezone.wire import stun
from firezone.wire.candidate import Candidate

START: Instant = 10**12
CONTROLLING = IceCredentials("w7up", "ksqwm66pilnb7skdwwfw3r")
CONTROLLED = IceCredentials("kwe6", "mzkrj52x5h5ebrfdsh5iyq")
OURS = Endpoint.from_text("192.0.2.1", 52625)
THEIRS = Endpoint.from_text("198.51.100.1", 52625)


def agent(*, is_controlling: bool, seed: int = 1) -> IceAgent:
    local, remote = (CONTROLLING, CONTROLLED) if is_controlling else (CONTROLLED, CONTROLLING)
    return IceAgent(is_controlling=is_controlling, local=local, remote=remote, rng=SeededRng(seed))


def host(text: str, port: int = 52625) -> Candidate:
    return host_candidate(Endpoint.from_text(text, port))


@dataclass
class Side:
    """One agent and what it said."""

    agent: IceAgent
    sent: list[tuple[Instant, IceTransmit]] = field(default_factory=list)
    nominated: list[tuple[Instant, Nominated]] = field(default_factory=list)
    states: list[tuple[Instant, IceState]] = field(default_factory=list)

    def requests(self) -> list[tuple[Instant, stun.Message]]:
        messages = [(at, stun.decode(sent.payload).message) for at, sent in self.sent]
        return [(at, message) for at, message in messages if message.message_class is stun.MessageClass.REQUEST]

    def answers(self) -> list[stun.Message]:
        messages = [stun.decode(sent.payload).message for _, sent in self.sent]
        return [message for message in messages if message.message_class is not stun.MessageClass.REQUEST]


class Link:
    """Carries what two agents say; by default it takes 5 ms each way."""

    def __init__(self, left: IceAgent | None = None, right: IceAgent | None = None) -> None:
        self.left = Side(left or agent(is_controlling=True, seed=1))
        self.right = Side(right or agent(is_controlling=False, seed=2))
        self.now: Instant = START
        self.latency = 5 * MILLISECOND
        self.drop: Callable[[Side, IceTransmit], bool] = lambda _side, _transmit: False
        self.translate: Callable[[Side, Endpoint], Endpoint] = lambda _side, source: source
        self.arrive: Callable[[Side, Endpoint], Endpoint] = lambda _side, destination: destination
        """What a NAT in front of the receiving side makes of a destination."""
        self._flying: list[tuple[Instant, Side, Endpoint, IceTransmit]] = []

    def offer(self, side: Side, candidate: Candidate) -> Candidate | None:
        """Adds a candidate to one side and, as the portal would, to the other."""
        announced = side.agent.add_local(candidate, self.now)
        if announced is not None:
            self.other(side).agent.add_remote(announced, self.now)
        self.collect()
        return announced

    def other(self, side: Side) -> Side:
        return self.right if side is self.left else self.left

    def run(self, duration: float) -> None:
        """Lets so many seconds pass, from deadline to deadline."""
        end = self.now + seconds(duration)
        self._wake()
        while (deadline := self._next()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            for flight in sorted((flight for flight in self._flying if flight[0] <= self.now), key=lambda flight: flight[0]):
                self._flying.remove(flight)
                _, side, source, transmit = flight
                side.agent.handle_message(self.arrive(side, transmit.destination), source, stun.decode(transmit.payload), self.now)
            self._wake()
        self.now = end

    def _wake(self) -> None:
        for side in (self.left, self.right):
            side.agent.handle_timeout(self.now)
        self.collect()

    def collect(self) -> None:
        for side in (self.left, self.right):
            while (event := side.agent.poll_event()) is not None:
                if isinstance(event, Nominated):
                    side.nominated.append((self.now, event))
                elif isinstance(event, StateChanged):
                    side.states.append((self.now, event.state))
            while (transmit := side.agent.poll_transmit()) is not None:
                side.sent.append((self.now, transmit))
                if not self.drop(side, transmit):
                    source = self.translate(side, transmit.source)
                    self._flying.append((self.now + self.latency, self.other(side), source, transmit))

    def _next(self) -> Instant | None:
        deadlines = [flight[0] for flight in self._flying]
        deadlines += [due[0] for side in (self.left, self.right) if (due := side.agent.poll_timeout()) is not None]
        return min(deadlines, default=None)


def connected() -> Link:
    """Two agents with a host candidate each that have found each other."""
    link = Link()
    link.offer(link.left, host("192.0.2.1"))
    link.offer(link.right, host("198.51.100.1"))
    link.run(1)
    return link


def check_to(
    target: IceAgent,
    *,
    sender: IceCredentials,
    receiver: IceCredentials,
    username: str | None = None,
    tie_breaker: int = 5,
    claims_control: bool = True,
    use_candidate: bool = False,
    source: Endpoint = THEIRS,
    destination: Endpoint = OURS,
) -> bool:
    """Hands a hand-made check to an agent."""
    local = sender if username is None else IceCredentials(username.partition(":")[2], sender.password)
    remote = receiver if username is None else IceCredentials(username.partition(":")[0], receiver.password)
    payload = encode_request(
        b"123456789012",
        local=local,
        remote=remote,
        is_controlling=claims_control,
        tie_breaker=tie_breaker,
        priority=1862270719,
        use_candidate=use_candidate,
    )
    return target.handle_message(destination, source, stun.decode(payload), START)


def is_answer(payload: bytes) -> bool:
    """Whether this is a response to a check."""
    return payload[:2] == b"\x01\x01"
