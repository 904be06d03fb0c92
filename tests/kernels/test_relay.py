"""The relay's compiled stages against dictionaries, and each rule of relaying by name (relay specification 8 and 19.6)."""

from __future__ import annotations

import random

import pytest

from firezone.base.errors import LocalError
from firezone.base.net import Endpoint
from firezone.kernels.batch import PacketBatch, RunList
from firezone.kernels.offload import group_runs
from firezone.kernels.relay import RelayTable
from firezone.kernels.ring import PacketRing
from firezone.kernels.types import Reason, Verdict
from firezone.loop.memory import address_of
from tests.harness.relay import SlowChannels

SEED = bytes(48)
LISTEN = Endpoint.from_text("203.0.113.101", 3478)
LISTEN6 = Endpoint.from_text("2001:db8:113::101", 3478)
CLIENT = Endpoint.from_text("198.51.100.7", 52625)
CLIENT6 = Endpoint.from_text("2001:db8:1::7", 52625)
PEER = Endpoint.from_text("192.0.2.9", 4321)
PEER6 = Endpoint.from_text("2001:db8:2::9", 4321)
PORT = 49152


def table_of(*channels: tuple[Endpoint, int, Endpoint, int]) -> RelayTable:
    table = RelayTable(3478, SEED, LISTEN.ip, LISTEN6.ip)
    for client, number, peer, port in channels:
        table.bind(client, number, peer, port)
    return table


class Reads:
    """A ring with reads in it, as the sockets would fill it."""

    def __init__(self) -> None:
        self.ring = PacketRing(64)
        self.batch, self.runs = PacketBatch(2048), RunList(2048)

    def add(self, remote: Endpoint, data: bytes, *, local: Endpoint = LISTEN, stride: int = 0, ecn: int = 0) -> None:
        assert self.ring.push(
            data, stride=stride or -1, socket=local.port, local=address_of(local), remote=address_of(remote), ecn=ecn
        )

    def leave(self) -> list[tuple[int, Endpoint, list[bytes]]]:
        """What the batch sends, run by run: (local port, destination, datagrams)."""
        group_runs(self.batch, self.runs)
        found = []
        for run in self.runs.runs[: self.runs.n]:
            row, datagrams = int(run["first"]), []
            while row >= 0:
                datagrams.append(self.batch.row_bytes(row))
                row = int(self.batch.next[row])
            found.append((int(self.batch.socket[run["first"]]), endpoint(self.batch.remote[run["first"]]), datagrams))
        return found

    def reasons(self) -> list[Reason]:
        return [Reason(reason) for reason in self.batch.reason[: self.batch.n].tolist()]


def endpoint(address: object) -> Endpoint:
    size = 4 if address["family"] == 4 else 16  # type: ignore[index]
    return Endpoint(address["ip"][:size].tobytes(), int(address["port"]))  # type: ignore[index]


def channel_data(number: int, payload: bytes, padding: bytes = b"") -> bytes:
    return number.to_bytes(2, "big") + len(payload).to_bytes(2, "big") + payload + padding


def allocation(port: int = PORT, family: int = 4) -> Endpoint:
    return Endpoint((LISTEN if family == 4 else LISTEN6).ip, port)


@pytest.mark.parametrize(("client", "peer"), [(CLIENT, PEER), (CLIENT, PEER6), (CLIENT6, PEER), (CLIENT6, PEER6)])
@pytest.mark.parametrize("size", [0, 1, 1280, 1472, 65_000])
def test_payload_crosses_both_ways_in_every_mix_of_families(client: Endpoint, peer: Endpoint, size: int) -> None:
    payload = random.Random(size).randbytes(size)
    table = table_of((client, 0x4000, peer, PORT))
    reads = Reads()
    reads.add(client, channel_data(0x4000, payload), local=LISTEN if client.is_ipv4 else LISTEN6)
    assert table.from_clients(reads.ring, 8, reads.batch) == 1
    assert reads.leave() == [(PORT, peer, [payload])]
    reads.ring.release(1)
    reads.add(peer, payload, local=allocation(family=4 if peer.is_ipv4 else 6))
    assert table.from_peers(reads.ring, 8, reads.batch) == 1
    assert reads.leave() == [(3478, client, [channel_data(0x4000, payload)])]


def test_padding_is_not_forwarded() -> None:
    table, reads = table_of((CLIENT, 0x4000, PEER, PORT)), Reads()
    for size in (1, 2, 3):
        reads.add(CLIENT, channel_data(0x4000, b"x" * size, bytes(4 - size)))
    table.from_clients(reads.ring, 8, reads.batch)
    assert [datagram for _, _, datagrams in reads.leave() for datagram in datagrams] == [b"x", b"xx", b"xxx"]


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (channel_data(0x4001, b"unbound"), Reason.NO_CHANNEL),
        (channel_data(0x4FFF, b""), Reason.NO_CHANNEL),
        (b"\x40\x00\x00\x05four", Reason.MALFORMED_PACKET),
        (b"\x40\x00\x00", Reason.MALFORMED_PACKET),
        (b"\x40", Reason.MALFORMED_PACKET),
        (channel_data(0x7FFF, b"RFC 5766"), Reason.NO_CHANNEL),
        (channel_data(0x8000, b"none"), Reason.MALFORMED_PACKET),
        (b"\x00\x01\x00\x00" + bytes(16), Reason.MALFORMED_PACKET),
        (b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(11), Reason.MALFORMED_PACKET),
        (b"\xff" * 40, Reason.MALFORMED_PACKET),
        (b"", Reason.EMPTY),
    ],
)  # fmt: skip
def test_what_is_dropped_from_clients(datagram: bytes, reason: Reason) -> None:
    table, reads = table_of((CLIENT, 0x4000, PEER, PORT)), Reads()
    reads.add(CLIENT, datagram)
    assert table.from_clients(reads.ring, 8, reads.batch) == 1
    assert (reads.reasons(), reads.leave()) == ([reason], [])


def test_another_clients_channel_is_not_usable() -> None:
    table, reads = table_of((CLIENT, 0x4000, PEER, PORT)), Reads()
    reads.add(Endpoint(CLIENT.ip, CLIENT.port + 1), channel_data(0x4000, b"x"))
    reads.add(Endpoint(CLIENT.ip, 0), channel_data(0x4000, b"x"))
    table.from_clients(reads.ring, 8, reads.batch)
    assert reads.reasons() == [Reason.NO_CHANNEL, Reason.MALFORMED_PACKET]


def test_peer_with_the_right_ip_and_a_wrong_port_is_dropped() -> None:
    table, reads = table_of((CLIENT, 0x4000, PEER, PORT)), Reads()
    reads.add(Endpoint(PEER.ip, PEER.port + 1), b"x", local=allocation())
    reads.add(PEER, b"x", local=allocation(PORT + 1))
    table.from_peers(reads.ring, 8, reads.batch)
    assert reads.reasons() == [Reason.NO_CHANNEL] * 2
    assert reads.leave() == []


def test_stun_is_punted_with_its_addresses() -> None:
    table, reads = table_of(), Reads()
    message = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)
    reads.add(CLIENT, message)
    table.from_clients(reads.ring, 8, reads.batch)
    assert reads.batch.rows(Verdict.PUNT).tolist() == [0]
    assert (reads.reasons(), reads.batch.row_bytes(0)) == ([Reason.STUN], message)
    assert (endpoint(reads.batch.local[0]), endpoint(reads.batch.remote[0])) == (LISTEN, CLIENT)


def test_beyond_the_allowance_control_messages_are_dropped_unpunted() -> None:
    table, reads = table_of(), Reads()
    table.admit(CLIENT)
    table.admit(CLIENT)
    table.allow_punts(0, (2, 1, 0))
    message = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)
    for remote in (PEER, PEER, CLIENT, Endpoint(CLIENT.ip, CLIENT.port + 1), CLIENT, CLIENT):
        reads.add(remote, message)
    table.from_clients(reads.ring, 8, reads.batch)
    assert reads.batch.rows(Verdict.PUNT).tolist() == [0, 2, 4]
    assert [reads.reasons()[row] for row in (1, 3, 5)] == [Reason.PUNT_LIMIT] * 3
    assert table.punts_left() == (0, 0, 0)
    table.dismiss(CLIENT)
    table.dismiss(CLIENT)
    table.allow_punts(0, (1, 0, 0))
    reads.ring.release(6)
    reads.add(CLIENT, message)
    table.from_clients(reads.ring, 8, reads.batch)
    assert (reads.reasons(), table.punts_left()) == ([Reason.PUNT_LIMIT], (1, 0, 0))


def test_channels_of_one_client_leave_together_in_order() -> None:
    peers = [Endpoint(PEER.ip, PEER.port + number) for number in range(3)]
    table, reads = table_of(*((CLIENT, 0x4000 + number, peer, PORT) for number, peer in enumerate(peers))), Reads()
    for number in (0, 2, 1, 0):
        reads.add(peers[number], bytes([number]) * 100, local=allocation())
    table.from_peers(reads.ring, 8, reads.batch)
    expected = [channel_data(0x4000 + number, bytes([number]) * 100) for number in (0, 2, 1, 0)]
    assert reads.leave() == [(3478, CLIENT, expected)]


def test_a_train_stays_one_run() -> None:
    """64 datagrams in one read leave by one send, in both directions, payloads untouched in the ring."""
    table, reads = table_of((CLIENT, 0x4000, PEER, PORT)), Reads()
    payloads = [bytes([n]) * 900 for n in range(64)]
    reads.add(CLIENT, b"".join(channel_data(0x4000, payload) for payload in payloads), stride=904)
    table.from_clients(reads.ring, 8, reads.batch)
    assert reads.leave() == [(PORT, PEER, payloads)]
    reads.ring.release(1)
    reads.add(PEER, b"".join(payloads), stride=900, local=allocation())
    table.from_peers(reads.ring, 8, reads.batch)
    assert reads.leave() == [(3478, CLIENT, [channel_data(0x4000, payload) for payload in payloads])]


def test_ecn_is_carried_over() -> None:
    table, reads = table_of((CLIENT, 0x4000, PEER, PORT)), Reads()
    reads.add(CLIENT, channel_data(0x4000, b"x"), ecn=1)
    table.from_clients(reads.ring, 8, reads.batch)
    assert reads.batch.ecn[0] == 1


def test_client_is_answered_from_the_address_it_speaks_to() -> None:
    table, reads = table_of((CLIENT, 0x4000, PEER, PORT)), Reads()
    second = Endpoint.from_text("203.0.113.102", 3478)
    reads.add(CLIENT, channel_data(0x4000, b"x"), local=second)
    table.from_clients(reads.ring, 8, reads.batch)
    assert reads.batch.local[0]["family"] == 0, "towards the peer the route decides"
    reads.ring.release(1)
    reads.add(PEER, b"x", local=allocation())
    table.from_peers(reads.ring, 8, reads.batch)
    assert endpoint(reads.batch.local[0]) == second


@pytest.mark.parametrize("family", [4, 6])
def test_two_clients_of_one_relay_reach_each_other_within_it(family: int) -> None:
    other, other_port = (CLIENT6, PORT + 7)
    table = table_of((CLIENT, 0x4001, allocation(other_port, family), PORT), (other, 0x4002, allocation(PORT, family), other_port))
    reads = Reads()
    reads.add(CLIENT, channel_data(0x4001, b"there"))
    reads.add(other, channel_data(0x4002, b"and back"), local=LISTEN6)
    table.from_clients(reads.ring, 8, reads.batch)
    assert reads.leave() == [(3478, other, [channel_data(0x4002, b"there")]), (3478, CLIENT, [channel_data(0x4001, b"and back")])]
    assert table.stats()["looped"] == 2
    table.unbind(other, 0x4002)
    reads.ring.release(2)
    reads.add(CLIENT, channel_data(0x4001, b"there"))
    table.from_clients(reads.ring, 8, reads.batch)
    assert reads.leave() == [(PORT, allocation(other_port, family), [b"there"])], "it is dropped when it comes back to us"


def test_permitted_peers_are_punted_and_channels_go_first() -> None:
    table, reads = table_of((CLIENT, 0x4000, PEER, PORT)), Reads()
    table.allow(PORT, CLIENT, PEER.ip)
    table.allow(PORT, CLIENT, PEER.ip)
    stranger = Endpoint(PEER.ip, 9)
    for remote in (PEER, stranger, Endpoint.from_text("192.0.2.10", 9)):
        reads.add(remote, b"x", local=allocation())
    table.from_peers(reads.ring, 8, reads.batch)
    assert reads.reasons() == [Reason.NONE, Reason.PEER_DATA, Reason.NO_CHANNEL]
    assert (int(reads.batch.socket[1]), endpoint(reads.batch.remote[1])) == (PORT, stranger)
    table.revoke(PORT, CLIENT, PEER.ip)
    reads.ring.release(3)
    reads.add(stranger, b"x", local=allocation())
    table.from_peers(reads.ring, 8, reads.batch)
    assert reads.reasons() == [Reason.NO_CHANNEL]


def test_a_full_batch_leaves_the_rest_in_the_ring() -> None:
    table, reads = table_of((CLIENT, 0x4000, PEER, PORT)), Reads()
    reads.batch = PacketBatch(10)
    train = channel_data(0x4000, b"abcd") * 6
    reads.add(CLIENT, train, stride=8)
    reads.add(CLIENT, train, stride=8)
    assert table.from_clients(reads.ring, 8, reads.batch) == 1
    reads.batch = PacketBatch(4)
    assert table.from_clients(reads.ring, 1, reads.batch) == 1
    assert reads.reasons() == [Reason.BATCH_FULL]


def test_binding_twice_and_misuse() -> None:
    table = table_of((CLIENT, 0x4000, PEER, PORT))
    table.bind(CLIENT, 0x4000, PEER, PORT)
    assert len(table) == 1
    for client, number, peer, port in ((CLIENT, 0x4000, PEER6, PORT), (CLIENT, 0x4001, PEER, PORT), (CLIENT6, 0x4000, PEER, PORT)):
        with pytest.raises(LocalError, match="already"):
            table.bind(client, number, peer, port)
    for number, port in ((0x3FFF, PORT), (0x8000, PORT), (0x4001, 0), (0x4001, 65536)):
        with pytest.raises(ValueError, match="is no"):
            table.bind(CLIENT, number, PEER6, port)
    with pytest.raises(ValueError, match="48 bytes"):
        RelayTable(3478, b"short")
    table.unbind(CLIENT, 0x4000)
    table.unbind(CLIENT, 0x4000)
    assert len(table) == 0


def test_any_history_of_channels_relays_as_dictionaries_do() -> None:
    """Thousands of channels come and go; after each step a batch of all kinds of datagrams goes through both."""
    rng = random.Random(3)
    clients = [Endpoint(bytes([10, 0, 0, n % 3]), 1000 + n) for n in range(9)] + [
        Endpoint(bytes(15) + bytes([n]), 1000) for n in range(3)
    ]
    peers = [Endpoint(bytes([192, 0, 2, n % 4]), 5000 + n // 4) for n in range(40)] + [
        Endpoint(bytes(14) + b"\1" + bytes([n]), 9) for n in range(9)
    ]
    ports = {client: PORT + index for index, client in enumerate(clients)}
    table, slow, reads = RelayTable(3478, rng.randbytes(48)), SlowChannels([]), Reads()
    for _ in range(400):
        for _ in range(rng.randrange(12)):
            client, peer, number = rng.choice(clients), rng.choice(peers), 0x4000 + rng.randrange(60)
            if (client, number) in slow.by_number:
                table.unbind(client, number)
                slow.unbind(client, number)
            elif (ports[client], peer) not in slow.by_peer:
                table.bind(client, number, peer, ports[client])
                slow.bind(client, number, peer, ports[client])
        assert len(table) == len(slow.by_number)
        check_clients(reads, table, slow, rng, clients)
        check_peers(reads, table, slow, rng, peers, list(ports.values()))


def check_clients(reads: Reads, table: RelayTable, slow: SlowChannels, rng: random.Random, clients: list[Endpoint]) -> None:
    wanted = []
    for _ in range(20):
        client = rng.choice(clients)
        data = channel_data(0x4000 + rng.randrange(60), rng.randbytes(rng.randrange(40)), bytes(rng.randrange(4)))
        data = data[: rng.randrange(1, len(data))] if rng.random() < 0.1 else data
        reads.add(client, data)
        if (sent := slow.from_client(client, data)) is not None:
            wanted.append(sent)
    table.from_clients(reads.ring, 20, reads.batch)
    reads.ring.release(20)
    left = [(port, remote, datagram) for port, remote, datagrams in reads.leave() for datagram in datagrams]
    assert sorted(left, key=repr) == sorted(wanted, key=repr)


def check_peers(
    reads: Reads, table: RelayTable, slow: SlowChannels, rng: random.Random, peers: list[Endpoint], ports: list[int]
) -> None:
    wanted = []
    for _ in range(20):
        peer, port, data = rng.choice(peers), rng.choice(ports), rng.randbytes(rng.randrange(40))
        reads.add(peer, data, local=allocation(port))
        if (sent := slow.from_peer(port, peer, data)) is not None:
            wanted.append((3478, *sent))
    table.from_peers(reads.ring, 20, reads.batch)
    reads.ring.release(20)
    left = [(port, remote, datagram) for port, remote, datagrams in reads.leave() for datagram in datagrams]
    assert sorted(left, key=repr) == sorted(wanted, key=repr)
