"""Packets through the filter, route and NAT kernels of a gateway, as clients, resources and flows grow.

One batch of 256 rows is filled again and again, as the data path does it: the rows are fresh in the cache, the tables are not.
Only the kernels of policy are timed. Each batch of a set-up is timed several times, the shortest counts: what interrupts the
process would be counted as the kernels' otherwise.
"""

from __future__ import annotations

import ipaddress
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from firezone.base.ids import NatClient, PeerRow
from firezone.datapath.tables import Tables
from firezone.kernels.batch import PacketBatch
from firezone.kernels.ip import parse_batch
from firezone.kernels.types import Verdict
from firezone.proto.updates import NatAttached, OwnAddressesSet, PeerFilterSet, RouteSet, Rule, TranslationsSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

ROWS = 256
PACKETS = 102_400
"""Per measurement: every one of 100 000 flows at least once."""
RULES_PER_CLIENT = 100
SETTLING = 4
"""Passes before those that count: memory for what is remembered grows as flows are seen."""
NETWORKS, NAMES = "networks", "names"
OUT, BACK = "client→resource", "resource→client"
_SIZE = 36
"""IPv4 header, UDP header, eight bytes."""
_PROXIES = int(ipaddress.IPv4Address("100.96.0.0"))
_RESOURCES = int(ipaddress.IPv4Address("10.0.0.0"))
_SITE = int(ipaddress.IPv4Address("172.16.0.0"))
_CLIENTS = int(ipaddress.IPv4Address("100.64.0.2"))
_OWN = (ipaddress.IPv4Address("100.64.0.1"), ipaddress.IPv6Address("fd00:2021:1111::1"))
_NOW = 1_000_000_000


@dataclass(frozen=True, slots=True)
class SetUp:
    """So many clients that share so many resources, and so many flows that take turns at random."""

    clients: int
    resources: int
    flows: int

    @property
    def rules(self) -> int:
        """Resources that each client may use."""
        return self.resources if self.clients == 1 else min(self.resources, RULES_PER_CLIENT)

    def resource_of(self, client: int, rule: int) -> int:
        return (client * 7 + rule) % self.resources


SET_UPS = tuple(
    SetUp(clients, resources, flows)
    for flows in (100, 100_000)
    for clients, resources in ((1, 1), (1, 10_000), (100, 10_000), (10_000, 10_000))
)


@dataclass
class Gateway:
    """Tables filled as a gateway's machine fills them, and packets of every flow in both directions."""

    set_up: SetUp
    kind: str
    tables: Tables = field(default_factory=lambda: Tables(bytes(range(48))))
    batch: PacketBatch = field(default_factory=lambda: PacketBatch(ROWS))

    def __post_init__(self) -> None:
        self.batch.over(np.zeros(ROWS * _SIZE, np.uint8))
        self.tables.apply(OwnAddressesSet(*_OWN))
        for client in range(self.set_up.clients):
            self._admit(client)
        out, peers = self._outgoing()
        self.outgoing = out, peers
        self.incoming = self._answers(out, peers), peers

    def _admit(self, client: int) -> None:
        own = ipaddress.ip_network(_CLIENTS + client)
        resources = [self.set_up.resource_of(client, rule) for rule in range(self.set_up.rules)]
        first = _PROXIES if self.kind == NAMES else _RESOURCES
        ports = ((80, 80), (443, 443), (8000, 8999))
        rules = tuple(Rule(ipaddress.ip_network(first + 1 + number), tcp=ports, udp=ports, icmp=True) for number in resources)
        self.tables.apply(PeerFilterSet(PeerRow(client), remote=(own,), rules=rules))
        self.tables.apply(RouteSet(own, PeerRow(client)))
        self.tables.apply(NatAttached(PeerRow(client), NatClient(client)))
        if self.kind == NAMES:
            translations = tuple(
                (ipaddress.IPv4Address(_PROXIES + 1 + number), ipaddress.IPv4Address(_SITE + 1 + number)) for number in resources
            )
            self.tables.apply(TranslationsSet(NatClient(client), translations))

    def _outgoing(self) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Returns (PACKETS, _SIZE) bytes, and the peer row of each."""
        set_up, first = self.set_up, _PROXIES if self.kind == NAMES else _RESOURCES
        flows = np.arange(set_up.flows)
        clients = flows % set_up.clients
        turns = flows // set_up.clients
        resources = (clients * 7 + turns % set_up.rules) % set_up.resources
        packets = np.zeros((set_up.flows, _SIZE), np.uint8)
        packets[:, :12] = np.frombuffer(bytes.fromhex("450000240000000040110000"), np.uint8)
        packets[:, 12:16] = _big(_CLIENTS + clients, ">u4")
        packets[:, 16:20] = _big(first + 1 + resources, ">u4")
        packets[:, 20:22] = _big(1024 + turns // set_up.rules, ">u2")
        packets[:, 22:24] = _big(np.full(set_up.flows, 443), ">u2")
        packets[:, 24:26] = _big(np.full(set_up.flows, _SIZE - 20), ">u2")
        packets[:, 10:12] = _big(_checksums(packets[:, :20]), ">u2")
        # A checksum of zero says that there is none; NAT leaves that alone, so give it one to patch.
        packets[:, 26:28] = 0x55
        order = np.tile(flows, -(-PACKETS // set_up.flows))[:PACKETS]
        order = order[np.argsort(np.random.default_rng(3).random(PACKETS))]
        return packets[order], clients[order].astype(np.int32)

    def _answers(self, out: NDArray[np.uint8], peers: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Sends everything out once, which opens the sessions; returns the answers of the site."""
        answers = np.empty_like(out)
        for at in range(0, PACKETS, ROWS):
            self.load(out[at : at + ROWS], peers[at : at + ROWS], from_tunnel=True)
            self.stages(OUT)()
            assert len(self.batch.rows(Verdict.FORWARD)) == ROWS, "every packet of these is permitted"
            sent = self.batch.slab.reshape(ROWS, _SIZE)
            answers[at : at + ROWS] = sent
            answers[at : at + ROWS, 12:16], answers[at : at + ROWS, 16:20] = sent[:, 16:20], sent[:, 12:16]
            answers[at : at + ROWS, 20:22], answers[at : at + ROWS, 22:24] = sent[:, 22:24], sent[:, 20:22]
        return answers

    def load(self, packets: NDArray[np.uint8], peers: NDArray[np.int32] | None, *, from_tunnel: bool) -> None:
        """Fills the batch with parsed rows."""
        batch = self.batch
        batch.slab[:] = packets.reshape(-1)
        batch.clear()
        for at in range(0, ROWS * _SIZE, _SIZE):
            batch.append(at, _SIZE)
        parse_batch(batch, from_tunnel)
        if from_tunnel and peers is not None:
            batch.peer[:ROWS] = peers

    def stages(self, direction: str) -> Callable[[], None]:
        """Returns the kernels of one direction over the batch, in the order of the data path."""
        tables, batch = self.tables, self.batch

        def out() -> None:
            tables.filters.admit_from_tunnel(batch)
            tables.nat.translate_from_tunnel(batch, _NOW)

        def back() -> None:
            tables.routes.lookup_batch(batch)
            tables.nat.translate_to_tunnel(batch, _NOW)
            tables.filters.admit_to_tunnel(batch)

        return out if direction == OUT else back

    def nanoseconds(self, direction: str, passes: int) -> float:
        """Returns nanoseconds per packet in one direction."""
        packets, peers = self.outgoing if direction == OUT else self.incoming
        stages, batches = self.stages(direction), PACKETS // ROWS
        best = np.full(batches, np.iinfo(np.int64).max)
        for turn in range(-SETTLING, passes):
            for number in range(batches):
                rows = slice(number * ROWS, (number + 1) * ROWS)
                self.load(packets[rows], peers[rows], from_tunnel=direction == OUT)
                before = time.perf_counter_ns()
                stages()
                if turn >= 0:
                    best[number] = min(best[number], time.perf_counter_ns() - before)
        assert len(self.batch.rows(Verdict.FORWARD)) == ROWS
        return float(best.sum() / (batches * ROWS))


def new_sessions_per_second(count: int = 50_000, clients: int = 10) -> float:
    """Returns how many NAT sessions the kernels open per second, first packets of new flows all of them."""
    gateway = Gateway(SetUp(clients, 100, count), NAMES)
    fresh = Gateway(SetUp(clients, 100, 1), NAMES)
    packets, peers = gateway.outgoing
    first = np.unique(packets, axis=0, return_index=True)[1]
    np.random.default_rng(1).shuffle(first)
    spent = 0
    for at in range(0, len(first) - ROWS + 1, ROWS):
        some = first[at : at + ROWS]
        fresh.load(packets[some], peers[some], from_tunnel=True)
        before = time.perf_counter_ns()
        fresh.stages(OUT)()
        spent += time.perf_counter_ns() - before
    opened: int = fresh.tables.nat.stats()["opened"]
    return opened / (spent / 1e9)


def _big(values: Any, kind: str) -> NDArray[np.uint8]:
    """Returns numbers as big-endian bytes, a row each."""
    return np.asarray(values).astype(kind).view(np.uint8).reshape(len(values), -1)


def _checksums(headers: NDArray[np.uint8]) -> NDArray[np.int64]:
    words: NDArray[np.int64] = np.ascontiguousarray(headers).view(">u2").astype(np.int64).sum(axis=1)
    words = (words & 0xFFFF) + (words >> 16)
    sums: NDArray[np.int64] = 0xFFFF - ((words & 0xFFFF) + (words >> 16))
    return sums
