"""What a WireGuard handshake costs: each message in each role, admission, and a whole exchange."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from firezone.base.ids import ReceiverIndex
from firezone.base.rng import SeededRng
from firezone.base.timing import SECOND
from firezone.proto.noise import kdf
from firezone.proto.noise.cookie import RateLimiter
from firezone.proto.noise.handshake import RemoteKeys, StaticKeys, initiate, open_initiation, sign, tai64n, verify_mac1
from firezone.wire.wireguard import Initiation, Response, decode
from tests.harness.noise import UTC, Sim, ipv4_packet

RNG = SeededRng(1)
US, THEM = StaticKeys.generate(RNG), StaticKeys.generate(RNG)
REMOTE_OF_US, REMOTE_OF_THEM = RemoteKeys(US, THEM.public, None), RemoteKeys(THEM, US.public, None)
MESSAGE, PENDING = initiate(US, REMOTE_OF_US, ReceiverIndex(1), tai64n(UTC), RNG)
DATAGRAM = sign(MESSAGE, REMOTE_OF_US.mac1_key, None)


def make_initiation() -> object:
    message, _ = initiate(US, REMOTE_OF_US, ReceiverIndex(1), tai64n(UTC), RNG)
    return sign(message, REMOTE_OF_US.mac1_key, None)


def identify() -> object:
    return open_initiation(THEM, MESSAGE)


def answer_initiation() -> tuple[Response, Any]:
    _, authentic = open_initiation(THEM, MESSAGE).open_timestamp(REMOTE_OF_THEM)
    return authentic.answer(REMOTE_OF_THEM, ReceiverIndex(2), RNG)


RESPONSE = answer_initiation()[0]
CASES: dict[str, Callable[[], object]] = {
    "make initiation": make_initiation,
    "identify initiator": identify,
    "answer initiation": answer_initiation,
    "accept response": lambda: PENDING.accept(RESPONSE, US, REMOTE_OF_US),
    "verify mac1": lambda: verify_mac1(DATAGRAM, THEM.mac1_key),
    "decode initiation": lambda: decode(DATAGRAM),
    "hchacha20": lambda: kdf.hchacha20(bytes(32), bytes(16)),
}


@pytest.mark.parametrize("case", CASES)
def test_message(benchmark: BenchmarkFixture, case: str) -> None:
    benchmark(CASES[case])


def test_refusal_under_load(benchmark: BenchmarkFixture) -> None:
    """A flood's price per datagram: mac1, two cookies compared, one cookie reply sealed."""
    limiter = RateLimiter(THEM, RNG, 0)
    for number in range(200):
        limiter.admit(DATAGRAM, number.to_bytes(4, "big"), 0)
    assert isinstance(decode(DATAGRAM), Initiation)
    reply = benchmark(limiter.admit, DATAGRAM, bytes(4), 0)
    assert reply is not None


def test_whole_exchange_of_two_peers(benchmark: BenchmarkFixture) -> None:
    """Both peers' work from the first packet to its delivery, the slow session store included."""

    def connect() -> int:
        sim = Sim()
        sim.send(sim.a, ipv4_packet())
        sim.run(SECOND)
        return len(sim.b.packets)

    assert benchmark(connect) == 1
