"""A whole client and a whole gateway whose only way is through a relay: what the compiled path does there, and what it leaves."""

from __future__ import annotations

import gc
import sys

import numpy as np
import pytest

from firezone.kernels.types import Reason
from firezone.proto.tunnel_state import ConnectionChanged, RelayEnded
from firezone.wire.portal.shared import NoRelays, RelaysPresence
from tests.harness import packets
from tests.harness.relayed import RelayedWorld
from tests.harness.roles import ClientMember, GatewayMember, Member, cidr

NET, SERVER = "10.0.0.0/24", "10.0.0.7"


def request(client: Member, number: int = 0, size: int = 4) -> bytes:
    return packets.udp(str(client.ipv4), SERVER, number.to_bytes(4, "big").ljust(size, b"x"), ports=(5000, 80))


def answer(client: Member, number: int = 0, size: int = 4) -> bytes:
    return packets.udp(SERVER, str(client.ipv4), number.to_bytes(4, "big").ljust(size, b"x"), ports=(80, 5000))


def connected(*addresses: str, v6: bool = False) -> tuple[RelayedWorld, ClientMember, GatewayMember]:
    world = RelayedWorld()
    world.relay(50, *addresses)
    world.portal.add(cidr(10, NET))
    outer = ("2001:db8::2", "2001:db8::1") if v6 else ("198.51.100.1", "192.0.2.1")
    gateway, client = world.gateway(outer=outer[0]), world.client(outer=outer[1])
    world.hand_out()
    client.send(request(client))
    world.run(2)
    assert gateway.received() == [request(client)]
    return world, client, gateway


def reaches(client: ClientMember, gateway: GatewayMember, number: int = 7, size: int = 4) -> bool:
    client.received(), gateway.received()
    client.send(request(client, number, size))
    if gateway.received() != [request(client, number, size)]:
        return False
    gateway.send(answer(client, number, size))
    return client.received() == [answer(client, number, size)]


@pytest.mark.parametrize(("address", "v6"), [("203.0.113.10", False), ("2001:db8:5::10", True)])
def test_traffic_crosses_a_relay_both_ways(address: str, v6: bool) -> None:
    world, client, gateway = connected(address, v6=v6)
    assert reaches(client, gateway)
    assert reaches(client, gateway, size=1280 - 28)
    assert world.relays[0].model.relayed > 4


def test_relayed_packets_take_the_compiled_path() -> None:
    world, client, gateway = connected()
    world.run(1)
    machines = [client.machine, gateway.machine]
    calls: list[str] = []
    for machine in machines:
        for name in ("handle_datagram", "handle_packet"):
            setattr(machine, name, lambda *_, name=name: calls.append(name))
    for number in range(50):
        assert reaches(client, gateway, number=number)
    assert calls == []


def test_one_relayed_end_is_enough_where_the_other_can_be_reached() -> None:
    world = RelayedWorld()
    world.relay().passes_strangers = True
    world.portal.add(cidr(10, NET))
    gateway, client = world.gateway(), world.client()
    world.hand_out()
    client.send(request(client))
    world.run(2)
    gateway.received()
    assert reaches(client, gateway)
    paths = client.machine.node.path_of(gateway.cid), gateway.machine.node.path_of(client.cid)
    assert sorted(path.is_relayed for path in paths if path is not None) == [False, True]


def test_a_burst_leaves_as_one_run_of_channel_data() -> None:
    world, client, gateway = connected()
    before = world.outward.delivered
    burst = [request(client, number, 1000) for number in range(20)]
    for packet in burst:
        assert client.tun.send(packet)
    world.pump()
    assert gateway.received() == burst
    runs = world.outward.delivered - before
    assert runs <= 4, f"{runs} runs for 20 datagrams"


def test_channels_stay_bound_over_hours_of_traffic_in_one_direction_and_both() -> None:
    world, client, gateway = connected()
    for number in range(60):
        assert reaches(client, gateway, number=number)
        world.run(120)
    assert not [event for event in client.events_of(ConnectionChanged) if not event.is_up]


def test_data_on_a_channel_that_was_closed_is_dropped() -> None:
    world, client, gateway = connected()
    assert reaches(client, gateway)
    client.tell(RelaysPresence(disconnected_ids=(world.relays[0].model.id,), connected=()))
    assert client.sent(NoRelays) == [NoRelays()]
    dropped = client.dropped(Reason.UNKNOWN_DATAGRAM)
    client.received()
    gateway.send(answer(client))
    assert client.received() == []
    assert client.dropped(Reason.UNKNOWN_DATAGRAM) > dropped


def test_a_relay_that_is_silent_is_told_and_left() -> None:
    world, client, _ = connected()
    world.relays[0].model.is_alive = False
    world.run(60)
    assert [event.reason for event in client.events_of(RelayEnded)] == ["no response"]
    assert client.sent(NoRelays) == [NoRelays()]


def test_a_relay_that_returns_with_another_secret_is_used_again() -> None:
    world, client, gateway = connected()
    world.relays[0].model.restart("another secret")
    world.hand_out()
    world.run(2)
    client.send(request(client, 1))
    world.run(2)
    assert reaches(client, gateway)


@pytest.mark.parametrize("pause", [0.0, 0.03, 0.2, 5.0])
def test_a_client_that_starts_over_is_back_over_the_same_relay(pause: float) -> None:
    world, client, gateway = connected("203.0.113.10")
    for turn in range(3):
        former = client.machine.public_key
        client.call(client.machine.reset)
        world.run(pause)
        client.send(request(client, 100 + turn))
        assert world.run_until(lambda turn=turn: request(client, 100 + turn) in gateway.received(), 5) < 1.5  # type: ignore[misc]
        assert client.machine.public_key != former
        assert reaches(client, gateway, number=200 + turn)
    assert len(world.relays[0].model.leases) == 2, "one for each end: the former ones were given back or taken over"


def test_relayed_traffic_leaves_nothing_behind() -> None:
    """Blocks of the interpreter stay flat while packets pass."""
    _, client, gateway = connected()
    packet = request(client, 1, 100)
    sizes = []
    for _ in range(6):
        for _ in range(300):
            client.tun.send(packet)
            client.engine.tick()
        gc.collect()
        sizes.append(sys.getallocatedblocks())
    assert np.diff(sizes[2:]).max() < 200
    assert gateway.is_alive
