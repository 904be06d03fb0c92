"""Whatever arrives: nothing raises, nothing unsigned changes anything, timers wake when they say."""

from __future__ import annotations

import heapq
import hmac

from hypothesis import given
from hypothesis import strategies as st

from firezone.base.net import Endpoint
from firezone.proto.relay.requests import Refused, Request, read_request
from firezone.proto.relay.timers import Timers
from firezone.wire import stun
from firezone.wire.stun import Attribute, Message, MessageClass, Method
from tests.harness.relay import RelayBench, TurnClient, code_of

CLIENT = Endpoint.from_text("198.51.100.7", 52625)
PEER = Endpoint.from_text("192.0.2.33", 34567)

known = st.sampled_from([int(kind) for kind in Attribute]) | st.integers(0, 0xFFFF)
attributes = st.lists(st.tuples(known, st.binary(max_size=40)), max_size=8)
methods = st.sampled_from([int(method) for method in Method]) | st.integers(0, 0x7F)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Bytes that are STUN in their header and anything behind it."""
    body = b""
    for kind, value in draw(attributes):
        body += kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)
    method, kind = draw(methods), draw(st.integers(0, 3))
    spread = (method & 0xF) | (method & 0x70) << 1 | (method & 0xF80) << 2 | (kind & 1) << 4 | (kind & 2) << 7
    cut = draw(st.integers(0, len(body)) | st.just(len(body)))
    length = draw(st.integers(0, 0xFFFF) | st.just(cut))
    return (
        spread.to_bytes(2, "big")
        + length.to_bytes(2, "big")
        + stun.MAGIC_COOKIE_BYTES
        + draw(st.binary(min_size=12, max_size=12))
        + body[:cut]
    )


@given(st.binary(max_size=200) | messages())
def test_any_bytes_are_a_request_a_refusal_or_nothing(datagram: bytes) -> None:
    read = read_request(datagram)
    assert read is None or isinstance(read, (Request, Refused))
    if isinstance(read, Refused):
        assert read.code in (400, 500)


@given(st.lists(st.binary(max_size=200) | messages(), max_size=5), st.booleans())
def test_any_bytes_get_one_readable_answer_at_most_and_change_nothing(datagrams: list[bytes], stands_alone: bool) -> None:
    bench = RelayBench(stands_alone=stands_alone)
    for datagram in datagrams:
        answers = bench.send(CLIENT, datagram)
        assert len(answers) <= 1
        for answer in answers:
            received = stun.decode(answer.payload)
            assert received.message.message_class in (MessageClass.SUCCESS, MessageClass.ERROR)
            assert received.message.transaction_id == datagram[8:20]
    assert all(entry[0] == "send" for entry in bench.take_log())
    assert bench.next_wake() is None


@given(st.sampled_from(["allocate", "refresh", "bind", "permit"]), st.integers(0, 10_000), st.integers(0, 7))
def test_a_forged_request_never_changes_state(what: str, position: int, bit: int) -> None:
    bench = RelayBench(stands_alone=True)
    client = TurnClient(bench)
    client.allocate()
    if what == "allocate":
        client.refresh(0)
    built = {
        "allocate": (Method.ALLOCATE, (Attribute.REQUESTED_TRANSPORT, 17)),
        "refresh": (Method.REFRESH, (Attribute.LIFETIME, 0)),
        "bind": (Method.CHANNEL_BIND, (Attribute.CHANNEL_NUMBER, 0x4000), (Attribute.XOR_PEER_ADDRESS, PEER)),
        "permit": (Method.CREATE_PERMISSION, (Attribute.XOR_PEER_ADDRESS, PEER)),
    }[what]
    good = client.build(built[0], *built[1:])  # type: ignore[arg-type]
    forged = bytearray(good)
    forged[position % len(forged)] ^= 1 << bit
    wake = bench.next_wake()
    bench.take_log()
    answers = bench.send(client.endpoint, bytes(forged))
    assert [entry for entry in bench.take_log() if entry[0] != "send"] == []
    assert bench.next_wake() == wake
    for answer in answers:  # one bit makes a Binding of an Allocate, which harms nobody
        message = stun.decode(answer.payload).message
        assert message.method == Method.BINDING or message.message_class is MessageClass.ERROR
    assert code_of(client.raw(good)) == 0, "and the honest one is still served"


@given(
    method=st.sampled_from([Method.ALLOCATE, Method.REFRESH, Method.CHANNEL_BIND, Method.CREATE_PERMISSION]),
    username=st.text(max_size=40) | st.builds("{}:{}".format, st.integers(-1, 2**70), st.text(max_size=20)),
    nonce=st.none() | st.text(max_size=60) | st.uuids().map(str),
    live=st.booleans(),
)
def test_no_username_or_nonce_gets_in_or_raises(method: Method, username: str, nonce: str | None, live: bool) -> None:
    bench = RelayBench()
    if live:
        nonce = bench.server._nonces.current(CLIENT, 0)
    fields: list[tuple[int, object]] = [
        (Attribute.REQUESTED_TRANSPORT, 17),
        (Attribute.CHANNEL_NUMBER, 0x4000),
        (Attribute.XOR_PEER_ADDRESS, PEER),
        (Attribute.USERNAME, username),
    ]
    fields += [(Attribute.NONCE, nonce)] if nonce is not None else []
    datagram = stun.encode(Message(MessageClass.REQUEST, method, bytes(12), tuple(fields)), key=b"guess")
    for answer in bench.send(CLIENT, datagram):
        assert code_of(stun.decode(answer.payload)) in (400, 401, 438)
    assert bench.ports.open_ports == {}


@given(st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(0, 100) | st.just(-1)), max_size=60))
def test_timers_behave_like_a_dictionary_that_is_searched(steps: list[tuple[int, int | None]]) -> None:
    timers: Timers[int] = Timers()
    model: dict[int, int] = {}
    for key, due in steps:
        if due is None:
            timers.cancel(key)
            model.pop(key, None)
        elif due < 0:
            expected = min(model.values(), default=None)
            popped = timers.pop_due(50)
            assert (popped is not None) == (expected is not None and expected <= 50)
            if popped is not None:
                assert model.pop(popped) == expected
        else:
            timers.set(key, due)
            model[key] = due
        assert timers.next_due() == min(model.values(), default=None)
        assert len(timers) == len(model)


def test_timers_that_are_moved_forth_and_back_do_not_pile_up() -> None:
    timers: Timers[int] = Timers()
    for step in range(10_000):
        timers.set(step % 7, 10**9 - step)
    assert len(timers._heap) < 100
    assert timers._heap == sorted(timers._heap) or heapq.nsmallest(1, timers._heap)[0] == timers._heap[0]


@given(
    st.lists(st.tuples(methods, st.integers(0, 1), attributes, st.booleans()), max_size=6),
    st.booleans(),
    st.lists(st.tuples(st.binary(max_size=60), st.integers(0, 65535), st.booleans()), max_size=4),
)
def test_no_signed_request_raises_whatever_it_says(
    requests: list[tuple[int, int, list[tuple[int, bytes]], bool]], stands_alone: bool, from_peers: list[tuple[bytes, int, bool]]
) -> None:
    """Users are not to be trusted either: any attributes, properly signed, on top of what a client normally holds."""
    bench = RelayBench(stands_alone=stands_alone)
    client = TurnClient(bench)
    client.allocate()
    client.bind(0x4000, PEER)
    for method, kind, fields, has_allocation in requests:
        if not has_allocation:
            client.refresh(0)
        body = b"".join(
            kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)
            for kind, value in [
                *((attribute, value) for attribute, value in fields if attribute != Attribute.MESSAGE_INTEGRITY),
                (Attribute.USERNAME, client.username.encode()),
                (Attribute.NONCE, (client.nonce or "").encode()),
            ]
        )
        spread = (method & 0xF) | (method & 0x70) << 1 | kind << 4
        head = spread.to_bytes(2, "big") + (len(body) + 24).to_bytes(2, "big") + stun.MAGIC_COOKIE_BYTES + bytes(12)
        signature = hmac.digest(client.key, head + body, "sha1")
        assert len(bench.send(client.endpoint, head + body + b"\x00\x08\x00\x14" + signature)) <= 1
    for data, port, is_known in from_peers:
        allocation = next(iter(bench.ports.open_ports), 1)
        bench.server.handle_peer_datagram(allocation, PEER if is_known else Endpoint(PEER.ip, port), data, bench.now)
    bench.drain()
    bench.advance(5000)
    assert bench.ports.open_ports == {}
    assert bench.next_wake() is None
