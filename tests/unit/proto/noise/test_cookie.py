"""The rate limits and the cookies that let honest peers through them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firezone.base.errors import RemoteError
from firezone.base.ids import ReceiverIndex
from firezone.base.rng import SeededRng
from firezone.base.timing import MILLISECOND, SECOND
from firezone.proto.noise import kdf
from firezone.proto.noise.cookie import (
    COOKIE_LIFETIME,
    COOKIE_ROTATION,
    MAX_SOURCES,
    PROVEN_LIMIT,
    SHARED_LIMIT,
    SOURCE_LIMIT,
    CookieDemand,
    RateLimiter,
    ReceivedCookie,
    receive_initiation,
)
from firezone.proto.noise.handshake import ReceivedInitiation, RemoteKeys, StaticKeys, initiate, sign, tai64n
from firezone.wire.wireguard import CookieReply, Initiation, decode
from tests.harness.noise import INITIATION, KEEPALIVE, RESPONSE, UTC, Sim, ipv4_packet

NOW = 5_000 * SECOND
RNG = SeededRng(9)
US, THEM = StaticKeys.generate(RNG), StaticKeys.generate(RNG)
US_TO_THEM = RemoteKeys(THEM, US.public, None)


def source(number: int) -> bytes:
    return number.to_bytes(4, "big")


def an_initiation(cookie: bytes | None = None) -> tuple[Initiation, bytes]:
    message, _ = initiate(THEM, US_TO_THEM, ReceiverIndex(77), tai64n(UTC), RNG)
    return message, sign(message, US.mac1_key, cookie)


MESSAGE, DATAGRAM = an_initiation()


def limiter(now: int = NOW) -> RateLimiter:
    return RateLimiter(US, SeededRng(10), now)


def flooded(now: int = NOW) -> RateLimiter:
    """A limiter whose shared limit is used up by sources of no interest."""
    flooded_limiter = limiter(NOW)
    for number in range(SHARED_LIMIT):
        assert flooded_limiter.admit(DATAGRAM, source(1000 + number), now) is None
    assert flooded_limiter.is_under_load
    return flooded_limiter


def cookie_for(demanding: RateLimiter, source_ip: bytes, now: int = NOW) -> bytes:
    """Fetches a cookie as a peer does."""
    reply = demanding.admit(DATAGRAM, source_ip, now)
    assert reply is not None
    received = ReceivedCookie()
    received.remember_sent(MESSAGE, DATAGRAM)
    answer = decode(reply)
    assert isinstance(answer, CookieReply)
    received.accept(answer, US_TO_THEM, now)
    cookie = received.current(now)
    assert cookie is not None
    return cookie


def test_wrong_mac1_is_refused_and_not_counted() -> None:
    guarded = limiter()
    for _ in range(SHARED_LIMIT * 2):
        with pytest.raises(RemoteError, match="mac1"):
            guarded.admit(DATAGRAM[:-32] + bytes(32), source(1), NOW)
    assert guarded.admit(DATAGRAM, source(1), NOW) is None


def test_a_hundred_pass_and_the_next_is_asked_for_a_cookie() -> None:
    assert flooded().admit(DATAGRAM, source(1), NOW) is not None


def test_window_ends_lazily_after_a_second() -> None:
    full = flooded()
    assert full.admit(DATAGRAM, source(1), NOW + 999 * MILLISECOND) is not None
    assert full.admit(DATAGRAM, source(1), NOW + SECOND) is None


def test_source_starts_anew_with_the_next_window() -> None:
    guarded = limiter()
    for window in range(3):
        now = NOW + window * SECOND
        assert [guarded.admit(DATAGRAM, source(1), now) for _ in range(SOURCE_LIMIT)] == [None] * SOURCE_LIMIT
        assert guarded.admit(DATAGRAM, source(1), now) is not None


def test_one_source_cannot_put_the_others_under_load() -> None:
    guarded = limiter()
    asked = sum(guarded.admit(DATAGRAM, source(1), NOW) is not None for _ in range(1000))
    assert asked == 1000 - SOURCE_LIMIT
    assert guarded.admit(DATAGRAM, source(2), NOW) is None


def test_ipv6_sources_of_one_subnet_are_one_source() -> None:
    guarded = limiter()
    subnet = bytes.fromhex("20010db800000001")
    asked = sum(guarded.admit(DATAGRAM, subnet + host.to_bytes(8, "big"), NOW) is not None for host in range(SOURCE_LIMIT + 5))
    assert asked == 5


def test_cookie_lets_its_source_through_the_load_and_nobody_else() -> None:
    full = flooded()
    _, with_cookie = an_initiation(cookie_for(full, source(1)))
    assert full.admit(with_cookie, source(1), NOW) is None
    assert full.admit(with_cookie, source(2), NOW) is not None


def test_source_with_a_cookie_is_limited_too() -> None:
    full = flooded()
    _, with_cookie = an_initiation(cookie_for(full, source(1)))
    for _ in range(PROVEN_LIMIT):
        assert full.admit(with_cookie, source(1), NOW) is None
    with pytest.raises(RemoteError, match="beyond its limit"):
        full.admit(with_cookie, source(1), NOW)


def test_cookie_outlives_one_rotation_and_not_two() -> None:
    cookie = cookie_for(flooded(), source(1))
    _, with_cookie = an_initiation(cookie)
    late = NOW + COOKIE_ROTATION
    assert flooded(late).admit(with_cookie, source(1), late) is None
    too_late = NOW + 2 * COOKIE_ROTATION
    assert flooded(too_late).admit(with_cookie, source(1), too_late) is not None


def test_memory_is_bounded_and_newcomers_wait() -> None:
    full = flooded()
    cookies = {number: an_initiation(cookie_for(full, source(number)))[1] for number in (1, 2, 2 * MAX_SOURCES)}
    for number in range(3, 2 * MAX_SOURCES):
        full.admit(DATAGRAM, source(number), NOW)
    assert len(full._sources) == MAX_SOURCES
    assert full.admit(cookies[1], source(1), NOW) is None
    del full._sources[source(1)]
    full._sources[b"taken"] = full._sources[source(2)]
    with pytest.raises(RemoteError, match="beyond its limit"):
        full.admit(cookies[1], source(1), NOW)


def test_forged_or_unasked_cookie_replies_change_nothing() -> None:
    reply = flooded().admit(DATAGRAM, source(1), NOW)
    assert reply is not None
    answer = decode(reply)
    assert isinstance(answer, CookieReply)
    received = ReceivedCookie()
    with pytest.raises(RemoteError, match="answers none"):
        received.accept(answer, US_TO_THEM, NOW)
    received.remember_sent(MESSAGE, DATAGRAM)
    with pytest.raises(RemoteError, match="answers none"):
        received.accept(replace(answer, receiver=ReceiverIndex(78)), US_TO_THEM, NOW)
    with pytest.raises(RemoteError, match="cookie does not authenticate"):
        received.accept(replace(answer, encrypted_cookie=bytes(32)), US_TO_THEM, NOW)
    received.remember_sent(MESSAGE, an_initiation()[1])
    with pytest.raises(RemoteError, match="cookie does not authenticate"):
        received.accept(answer, US_TO_THEM, NOW)
    assert received.current(NOW) is None


def test_received_cookie_is_used_for_two_minutes() -> None:
    reply = decode(flooded().admit(DATAGRAM, source(1), NOW) or b"")
    assert isinstance(reply, CookieReply)
    received = ReceivedCookie()
    received.remember_sent(MESSAGE, DATAGRAM)
    received.accept(reply, US_TO_THEM, NOW)
    assert received.current(NOW + COOKIE_LIFETIME - 1) is not None
    assert received.current(NOW + COOKIE_LIFETIME) is None


def test_cookie_reply_is_sealed_with_our_cookie_key() -> None:
    answer = decode(flooded().admit(DATAGRAM, source(1), NOW) or b"")
    assert isinstance(answer, CookieReply)
    assert answer.receiver == MESSAGE.sender
    key = kdf.hash_of(kdf.LABEL_COOKIE, US.public)
    assert len(kdf.open_extended(key, answer.nonce, answer.encrypted_cookie, DATAGRAM[-32:-16])) == 16


def test_initiation_is_counted_before_it_is_opened() -> None:
    guarded = limiter()
    opened = receive_initiation(US, guarded, DATAGRAM, source(1), NOW)
    assert isinstance(opened, ReceivedInitiation)
    assert opened.remote_public == THEM.public
    assert isinstance(receive_initiation(US, flooded(), DATAGRAM, source(1), NOW), CookieDemand)
    for garbage in (b"", DATAGRAM[:-1], bytes(148), sign(replace(MESSAGE, encrypted_static=bytes(48)), US.mac1_key, None)):
        with pytest.raises(RemoteError):
            receive_initiation(US, guarded, garbage, source(1), NOW)


def test_no_repr_shows_a_secret() -> None:
    full = flooded()
    cookie = cookie_for(full, source(1))
    received = ReceivedCookie()
    shown = repr([full, received, CookieDemand(cookie)])
    assert cookie.hex()[:8] not in shown
    assert repr(cookie)[2:10] not in shown
    assert full._secret.hex()[:8] not in shown


def test_peer_under_load_answers_with_a_cookie_and_the_retry_gets_through() -> None:
    sim = Sim()
    exhaust(sim.b.limiter, sim.now + 10 * MILLISECOND)
    sim.send(sim.a, ipv4_packet(b"hello"))
    sim.run(100 * MILLISECOND)
    assert sim.kinds("b") == ["COOKIE_REPLY"]
    assert sim.kinds("a") == [INITIATION]  # no immediate retransmission
    deadline = sim.a.peer.poll_timeout()
    assert deadline is not None
    assert deadline[1] == "send initiation again"
    exhaust(sim.b.limiter, deadline[0] + 10 * MILLISECOND)
    sim.run(deadline[0] - sim.now)
    sim.run(SECOND)
    assert sim.kinds("b") == ["COOKIE_REPLY", RESPONSE]
    assert sim.b.packets == [ipv4_packet(b"hello")]
    assert sim.sent("a", INITIATION)[0][-16:] == bytes(16) != sim.sent("a", INITIATION)[1][-16:]


def test_initiator_under_load_demands_a_cookie_of_the_responder() -> None:
    sim = Sim()
    exhaust(sim.a.limiter, sim.now + 20 * MILLISECOND)
    sim.initiate(sim.a)
    sim.run(100 * MILLISECOND)
    assert sim.kinds("a") == [INITIATION, "COOKIE_REPLY"]
    sim.run(6 * SECOND)
    assert sim.kinds("a")[2:] == [INITIATION, KEEPALIVE]
    assert sim.sent("b", RESPONSE)[1][-16:] != bytes(16)


def exhaust(victim: RateLimiter, now: int) -> None:
    """Uses up the shared limit of the window that stands at an instant."""
    message, _ = initiate(THEM, US_TO_THEM, ReceiverIndex(1), tai64n(UTC), RNG)
    datagram = sign(message, victim._static.mac1_key, None)
    for number in range(SHARED_LIMIT):
        victim.admit(datagram, source(number), now)
