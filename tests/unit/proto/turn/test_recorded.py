"""The original with its relay: every datagram decodes and encodes to itself, and our client says the same in its place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from firezone.base.net import Endpoint
from firezone.base.timing import SECOND, Instant
from firezone.proto.turn import messages
from firezone.proto.turn.allocation import Allocation
from firezone.proto.turn.channels import decode_channel_data, encode_channel_data
from firezone.proto.turn.messages import Credentials
from firezone.wire import stun
from firezone.wire.portal.shared import parse_endpoint
from firezone.wire.stun import Attribute, MessageClass, Method

VECTORS = Path(__file__).parents[3] / "vectors"
SESSIONS = ["base-relayed", "new-relayed", "base-ipv6", "base-direct", "new-direct"]
PROGRAMS = ["client", "gateway"]


@dataclass
class Seen:
    """One datagram between a program and the relay."""

    at: Instant
    source: Endpoint
    destination: Endpoint
    payload: bytes
    is_whole: bool
    """Whether it was recorded alone; a GSO train that its first message does not divide is not told apart."""


@dataclass
class Session:
    """What one program and the relay said to each other, and the portal's word on the relay."""

    servers: list[Endpoint]
    username: str
    password: str
    datagrams: list[Seen]

    @property
    def key(self) -> bytes:
        return stun.long_term_key(self.username, messages.REALM, self.password)

    def requests(self) -> list[Seen]:
        return [seen for seen in self.datagrams if seen.destination in self.servers and stun.is_stun(seen.payload)]


def load(name: str, role: str) -> Session:
    records = [json.loads(line) for line in (VECTORS / f"{name}.jsonl").read_text().splitlines()]
    (relays,) = [init_relays(record) for record in records if is_init(record, role)][:1]
    servers = [parse_endpoint(relay["addr"]) for relay in relays]
    host = {"client": "21", "gateway": "31"}[role]
    seen = []
    for record in records:
        if "hex" not in record:
            continue
        source, destination = parse_endpoint(record["from"]), parse_endpoint(record["to"])
        ends = {source, destination}
        own = [end for end in ends if end.port != 3478 and end.host.endswith(host)]
        if not own or not ends & set(servers):
            continue
        for payload, is_whole in pieces(bytes.fromhex(record["hex"])):
            seen.append(Seen(round(record["t"] * SECOND), source, destination, payload, is_whole))
    return Session(servers, relays[0]["username"], relays[0]["password"], seen)


def is_init(record: dict[str, Any], role: str) -> bool:
    return record["kind"] == "portal" and (record["role"], record["dir"], record.get("event")) == (role, "out", "init")


def init_relays(record: dict[str, Any]) -> list[dict[str, str]]:
    relays: list[dict[str, str]] = json.loads(record["text"])["payload"]["relays"]
    return relays


def pieces(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Cuts what was recorded in front of an interface that cuts GSO trains."""
    if not data or data[0] not in (0, 1, *range(0x40, 0x50)):
        yield data, True
        return
    head = 4 if data[0] >= 0x40 else 20
    size = head + int.from_bytes(data[2:4], "big")
    for at in range(0, len(data), size):
        yield data[at : at + size], size == len(data)


class RecordedIds:
    """Randomness that repeats the transaction ids of a recording."""

    def __init__(self, ids: list[bytes]) -> None:
        self.ids = ids

    def bytes(self, count: int) -> bytes:
        value = self.ids.pop(0)
        assert len(value) == count
        return value


@pytest.mark.parametrize("role", PROGRAMS)
@pytest.mark.parametrize("name", SESSIONS)
def test_every_message_encodes_to_itself_and_is_signed_as_it_should_be(name: str, role: str) -> None:
    session = load(name, role)
    kinds = set()
    for seen in session.datagrams:
        if not stun.is_stun(seen.payload):
            continue
        received = stun.decode(seen.payload)
        is_signed = received.message.method != Method.BINDING
        assert received.verify_integrity(session.key) is is_signed
        assert stun.encode(received.message, key=session.key if is_signed else None) == seen.payload
        kinds.add((received.message.message_class, received.message.method))
    assert {
        (MessageClass.REQUEST, Method.BINDING),
        (MessageClass.SUCCESS, Method.BINDING),
        (MessageClass.ERROR, Method.ALLOCATE),
        (MessageClass.SUCCESS, Method.ALLOCATE),
    } <= kinds


@pytest.mark.parametrize("role", PROGRAMS)
@pytest.mark.parametrize("name", ["base-relayed", "new-relayed", "base-ipv6"])
def test_channel_data_encodes_to_itself(name: str, role: str) -> None:
    framed = [seen for seen in load(name, role).datagrams if 0x40 <= seen.payload[0] <= 0x4F and seen.is_whole]
    assert len(framed) > 10
    for seen in framed:
        decoded = decode_channel_data(seen.payload)
        assert decoded is not None
        assert encode_channel_data(*decoded) == seen.payload


def replay(session: Session, monkeypatch: pytest.MonkeyPatch) -> tuple[list[bytes], list[bytes]]:
    """Gives a fresh client of ours what the relay said, and binds what the recorded program bound, at the same moments.

    Returns: what it sent, and what the recorded program sent, each once.
    """
    recorded = [stun.decode(seen.payload).message for seen in session.requests()]
    monkeypatch.setattr(messages, "SOFTWARE", recorded[0].get(Attribute.SOFTWARE))
    rng = RecordedIds(list(dict.fromkeys(message.transaction_id for message in recorded)))
    now = session.requests()[0].at
    credentials = Credentials.from_password(session.username, session.password)
    allocation = Allocation(session.servers, credentials, gate=None, rng=rng, now=now)
    sent: dict[bytes, None] = {}
    for seen in session.datagrams:
        while (transmit := allocation.poll_transmit()) is not None:
            sent[transmit.payload] = None
        received = stun.decode(seen.payload) if stun.is_stun(seen.payload) else None
        if seen.source in session.servers and received is not None:
            allocation.handle_message(seen.destination, seen.source, received, seen.at)
        elif received is not None and received.message.method == Method.CHANNEL_BIND:
            fill_gap(allocation, rng, received.message, seen.at)
            peer = received.message.get(Attribute.XOR_PEER_ADDRESS)
            assert peer is not None
            allocation.bind_channel(peer, seen.at)
    return list(sent), list(dict.fromkeys(seen.payload for seen in session.requests()))


def fill_gap(allocation: Allocation, rng: RecordedIds, message: stun.Message, now: Instant) -> None:
    """Takes the numbers of bindings that were not recorded: they left in a train that was too long."""
    number = message.get(Attribute.CHANNEL_NUMBER)
    assert number is not None
    for missing in range(0x4000, number):
        peer = Endpoint(missing.to_bytes(4, "big"), 1)
        if any(channel.number == missing for channel in allocation._channels):
            continue
        rng.ids.insert(0, missing.to_bytes(12, "big"))
        allocation.bind_channel(peer, now)
        assert allocation.poll_transmit() is not None


@pytest.mark.parametrize("role", PROGRAMS)
@pytest.mark.parametrize("name", SESSIONS)
def test_our_client_in_its_place_sends_the_same_bytes(name: str, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent, recorded = replay(load(name, role), monkeypatch)
    assert [payload.hex() for payload in sent] == [payload.hex() for payload in recorded]
    assert len(recorded) >= 3


def test_the_newest_sends_the_software_we_send() -> None:
    first = stun.decode(load("new-relayed", "client").requests()[0].payload).message
    assert first.get(Attribute.SOFTWARE) == messages.SOFTWARE


def test_first_allocate_of_the_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed with a nonce not known yet; key and bytes as computed independently."""
    session = "BD20EE571CFA9E2DB619C9B7197B1FF5447CBE7BBB3AD290034C4DF75C200596"
    monkeypatch.setattr(messages, "SOFTWARE", f"snownet; session={session}")
    credentials = Credentials.from_password("1700000000:c2FsdA", "eMgsKnxm7+dj+WkLSOZv9Fv95PN9Ef4N7sFtQghys38")
    assert credentials.key.reveal().hex() == "c543199a57474b94ca0aa2e233fcd0a7"
    assert messages.allocate().encode(bytes(range(1, 13)), credentials).hex() == (
        "000300a42112a4420102030405060708090a0b0c0019000411000000800000040200000080220051736e6f776e65743b2073657373696f6e3d424432"
        "304545353731434641394532444236313943394237313937423146463534343743424537424242334144323930303334433444463735433230303539"
        "3600000000060011313730303030303030303a63324673644100000000140008666972657a6f6e65000800147c14b00205c339ba749abb87d18ce1c0"
        "fa64a03d"
    )
