"""Whatever a relay answers: no error but the package's own, bounded memory, and never two peers on one number."""

from __future__ import annotations

import contextlib
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from firezone.base.errors import FirezoneError
from firezone.base.net import Endpoint
from firezone.wire import stun
from firezone.wire.stun import Attribute, ErrorCode, MessageClass, Method, Value
from tests.unit.proto.turn.bench import KEY, LENT4, LENT6, LOCAL4, MAPPED4, RELAY4, RELAY6, Bench, Sent, peer

SECONDS = st.sampled_from([0.0, 0.001, 0.6, 1.1, 8.2, 25.0, 200.0, 301.0, 600.0, 901.0])
CODES = st.sampled_from([0, 0, 0, 400, 401, 403, 420, 437, 438, 441, 442, 486, 500, 508])
LIFETIMES = st.sampled_from([None, 0, 1, 20, 600, 3600, 0xFFFFFFFF])
ADDRESSES = st.lists(st.sampled_from([LENT4, LENT6, Endpoint(bytes(4), 0), Endpoint(bytes(16), 1)]), max_size=3)
KEYS = st.sampled_from([KEY, b"other", None])
PEERS = st.integers(0, 120).map(peer) | st.sampled_from([LENT6])

STEP = st.one_of(
    st.tuples(st.just("run"), SECONDS),
    st.tuples(st.just("bind"), PEERS),
    st.tuples(st.just("send"), PEERS),
    st.tuples(st.just("receive"), st.integers(0x3FFE, 0x4010)),
    st.tuples(st.just("probe")),
    st.tuples(st.just("noise"), st.binary(max_size=60)),
    st.tuples(st.just("answer"), st.integers(0, 40), CODES, LIFETIMES, ADDRESSES, KEYS, st.booleans()),
)


def respond(
    bench: Bench, index: int, code: int, lifetime: int | None, lent: list[Endpoint], key: bytes | None, is_full: bool
) -> None:
    if not bench.sent:
        return
    sent: Sent = bench.sent[-1 - index % len(bench.sent)]
    attributes: list[tuple[int, Value]] = [(Attribute.XOR_RELAYED_ADDRESS, endpoint) for endpoint in lent]
    if lifetime is not None:
        attributes.append((Attribute.LIFETIME, lifetime))
    if is_full:
        attributes += [(Attribute.XOR_MAPPED_ADDRESS, MAPPED4), (Attribute.NONCE, f"n{index}"), (Attribute.REALM, "firezone")]
    if code:
        attributes.append((Attribute.ERROR_CODE, ErrorCode(code)))
    message = stun.Message(
        MessageClass.ERROR if code else MessageClass.SUCCESS, sent.method, sent.message.transaction_id, tuple(attributes)
    )
    received = stun.decode(stun.encode(message, key=None if sent.method == Method.BINDING else key))
    bench.allocation.handle_message(LOCAL4, sent.server, received, bench.now)
    bench.collect()


def perform(bench: Bench, step: tuple[object, ...]) -> None:
    match step:
        case ("run", float(duration)):
            bench.run(duration)
        case ("bind", Endpoint() as target):
            bench.allocation.bind_channel(target, bench.now)
        case ("send", Endpoint() as target):
            bench.send(target)
        case ("receive", int(number)):
            bench.receive(number)
        case ("probe",):
            bench.allocation.probe(bench.now)
        case ("noise", bytes(datagram)):
            with contextlib.suppress(FirezoneError):
                bench.allocation.handle_message(LOCAL4, RELAY4, stun.decode(datagram), bench.now)
        case ("answer", *rest):
            respond(bench, *rest)  # type: ignore[arg-type]
    bench.collect()


def check(bench: Bench) -> None:
    channels = list(bench.allocation._channels)
    live = [channel for channel in channels if channel.is_sendable(bench.now)]
    assert len({channel.number for channel in live}) == len(live)
    assert len({channel.peer for channel in channels}) == len(channels) <= 4096
    assert len(bench.allocation._waiting) <= 100
    opened = {number for numbers in bench.gate.relays.values() for number in numbers}
    assert opened <= {channel.number for channel in channels if channel.is_confirmed}
    assert len(bench.allocation._requests) <= 3 + len(channels)
    due = bench.allocation.poll_timeout()
    assert due is None or isinstance(due[0], int)


@settings(deadline=None, max_examples=300)
@given(st.lists(STEP, max_size=60), st.booleans())
def test_no_answers_break_it(steps: list[tuple[object, ...]], is_dual: bool) -> None:
    bench = Bench((RELAY4, RELAY6) if is_dual else (RELAY4,))
    for step in steps:
        perform(bench, step)
        check(bench)


@settings(deadline=None, max_examples=200)
@given(st.lists(STEP, max_size=60), st.integers(0, 1 << 16))
def test_no_answers_break_an_allocation_in_use(steps: list[tuple[object, ...]], seed: int) -> None:
    bench = Bench().allocated(LENT4, LENT6)
    draw = random.Random(seed)
    for _ in range(draw.randrange(20)):
        bench.channel(peer(draw.randrange(120)))
    for step in steps:
        perform(bench, step)
        check(bench)


def test_every_number_for_its_peer_over_a_day() -> None:
    """Peers come and go; a number never changes its peer before it has cooled down, and a peer never its number."""
    bench = Bench().allocated()
    draw = random.Random(3)
    held: dict[int, tuple[Endpoint, int]] = {}
    for _ in range(1500):
        target = peer(draw.randrange(6000))
        request_count = len(bench.of(Method.CHANNEL_BIND))
        bench.allocation.bind_channel(target, bench.now)
        bench.collect()
        for request in bench.of(Method.CHANNEL_BIND)[request_count:]:
            number, who = request.get(Attribute.CHANNEL_NUMBER), request.get(Attribute.XOR_PEER_ADDRESS)
            assert number is not None
            assert who is not None
            if number in held and held[number][0] != who:
                assert bench.now - held[number][1] >= 900_000_000_000
            held[number] = (who, bench.now)
            bench.answer(request)
        bench.sent.clear()
        bench.keep_alive(draw.choice([0.01, 1, 20, 60]))
