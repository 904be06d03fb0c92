"""What control traffic costs: STUN messages, checks answered by a node, and a wake-up beside thousands of idle connections."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from firezone.base.ids import ConnectionId
from firezone.base.rng import SeededRng
from firezone.proto.ice.checks import IceCredentials
from firezone.proto.snownet.events import Role
from firezone.proto.snownet.node import Node
from firezone.wire import stun
from tests.harness.sessions import SlowSessionStore
from tests.harness.snownet import EPOCH, START, World, endpoint

PASSWORD = b"mzkrj52x5h5ebrfdsh5iyq"
REQUEST = bytes.fromhex(
    "000100482112a4420102030405060708090a0b0c000600096b7765363a77377570000000802a00080102030405060708002400046efffeff"
    "00250000000800142a1f84977dfdd0a12c77605804847cbf422d96968028000447730897"
)


def test_decode_and_verify_a_check(benchmark: BenchmarkFixture) -> None:
    assert benchmark(lambda: stun.decode(REQUEST).verify_integrity(PASSWORD))


def test_encode_a_check(benchmark: BenchmarkFixture) -> None:
    message = stun.decode(REQUEST).message
    assert benchmark(lambda: stun.encode(message, key=PASSWORD, fingerprint=True)) == REQUEST


def test_answer_a_check(benchmark: BenchmarkFixture) -> None:
    world = World()
    client, gateway = world.connected()
    check = [d.transmit.payload for d in client.sent("stun") if len(d.transmit.payload) > 64][-1]

    def answer() -> None:
        gateway.node.handle_datagram(gateway.addresses[0], client.addresses[0], check, world.now)
        while gateway.node.poll_transmit() is not None:
            pass

    benchmark(answer)


@pytest.mark.parametrize("connections", [10, 10_000])
def test_wake_one_of_many(benchmark: BenchmarkFixture, connections: int) -> None:
    """The cost of a tick in which one check is due must not grow with the number of connections."""
    node = Node(Role.GATEWAY, store=SlowSessionStore(), rng=SeededRng(1), now=START, utc=EPOCH)
    node.set_local_addresses([endpoint("192.0.2.1")], START)
    for number in range(connections):
        ours, theirs = IceCredentials(f"g{number}", "g" * 22), IceCredentials(f"c{number}", "c" * 22)
        key = SeededRng(number + 2).bytes(32)
        node.upsert_connection(ConnectionId(f"client-{number}"), key, bytes(32), ours, theirs, START)
    while node.poll_transmit() is not None or node.poll_event() is not None:
        pass

    def wake() -> object:
        node.handle_timeout(START + 1)
        return node.poll_timeout()

    assert benchmark(wake) is not None
