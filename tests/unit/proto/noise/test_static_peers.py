"""The machine for plain WireGuard finds the peer of every datagram and packet, on the slow path alone."""

from __future__ import annotations

import ipaddress

import pytest

from firezone.base.errors import RemoteError
from firezone.base.net import Endpoint, Network
from firezone.base.rng import SeededRng
from firezone.base.timing import SECOND
from firezone.kernels.types import Reason
from firezone.proto.machine import Machine
from firezone.proto.noise.handshake import StaticKeys
from tests.harness.noise import UTC, ipv4_packet
from tests.harness.sessions import SlowSessionStore
from tests.harness.static_peers import PeerConfig, StaticPeers

HOSTS = [Endpoint(bytes([192, 0, 2, number]), 51820) for number in range(4)]
KEYS = [StaticKeys.generate(SeededRng(number + 1)) for number in range(4)]


def network(text: str) -> Network:
    return ipaddress.ip_network(text)


def hub_and_spokes() -> tuple[StaticPeers, list[StaticPeers]]:
    """A hub that routes by longest prefix to three peers, which know where it is."""
    allowed = [("10.0.0.0/8",), ("10.0.0.0/30", "fd00::/16"), ("172.16.0.0/12",)]
    configs = [
        PeerConfig(KEYS[number].public, tuple(network(text) for text in networks))
        for number, networks in enumerate(allowed, start=1)
    ]
    hub = StaticPeers(KEYS[0], configs, store=SlowSessionStore(), rng=SeededRng(90), now=SECOND, utc=UTC)
    everything = (network("0.0.0.0/0"),)
    spokes = [
        StaticPeers(
            KEYS[number],
            [PeerConfig(KEYS[0].public, everything, endpoint=HOSTS[0])],
            store=SlowSessionStore(),
            rng=SeededRng(90 + number),
            now=SECOND,
            utc=UTC,
        )
        for number in (1, 2, 3)
    ]
    return hub, spokes


def settle(hub: StaticPeers, spokes: list[StaticPeers]) -> None:
    """Carries datagrams until nobody has more to say."""
    is_quiet = False
    while not is_quiet:
        is_quiet = True
        for number, spoke in enumerate(spokes, start=1):
            while (transmit := spoke.poll_transmit()) is not None:
                is_quiet = False
                hub.handle_datagram(transmit.destination, HOSTS[number], transmit.payload, 0, SECOND)
        while (transmit := hub.poll_transmit()) is not None:
            is_quiet = False
            number = HOSTS.index(transmit.destination)
            spokes[number - 1].handle_datagram(HOSTS[number], HOSTS[0], transmit.payload, 0, SECOND)


def test_packets_reach_the_peer_with_the_longest_prefix() -> None:
    hub, spokes = hub_and_spokes()
    for spoke in spokes:
        spoke.handle_packet(ipv4_packet(b"to hub"), 0, Reason.NO_PATH, SECOND)
    settle(hub, spokes)
    assert [hub.poll_packet() for _ in range(4)] == [ipv4_packet(b"to hub")] * 3 + [None]
    hub.handle_packet(ipv4_packet(b"to 10.0.0.2"), 0, Reason.NO_PATH, SECOND)
    settle(hub, spokes)
    assert [spoke.poll_packet() for spoke in spokes] == [None, ipv4_packet(b"to 10.0.0.2"), None]


def test_stranger_and_unknown_index_are_refused() -> None:
    hub, spokes = hub_and_spokes()
    stranger = StaticPeers(
        StaticKeys.generate(SeededRng(7)),
        [PeerConfig(KEYS[0].public, (network("0.0.0.0/0"),), endpoint=HOSTS[0])],
        store=SlowSessionStore(),
        rng=SeededRng(8),
        now=SECOND,
        utc=UTC,
    )
    machine: Machine = stranger
    machine.handle_packet(ipv4_packet(), 0, Reason.NO_PATH, SECOND)
    transmit = machine.poll_transmit()
    assert transmit is not None
    with pytest.raises(RemoteError, match="none of our peers"):
        hub.handle_datagram(HOSTS[0], HOSTS[1], transmit.payload, 0, SECOND)
    with pytest.raises(RemoteError, match="none of our peers"):
        hub.handle_datagram(HOSTS[0], HOSTS[1], b"\x04\0\0\0" + bytes(28), 0, SECOND)
    assert [spoke.poll_event() for spoke in spokes] == [None] * 3
