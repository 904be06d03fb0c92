"""Every queue has a bound, and the bound has a figure: the worst case in bytes, computed from the constants.

A queue that is new must be entered here with its bound, or with the reason why it needs none.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from firezone.base import limits
from firezone.base.errors import StillConnecting
from firezone.base.ids import ConnectionId, ResourceId
from firezone.base.net import Endpoint, Transmit
from firezone.base.rng import SeededRng
from firezone.base.timing import SECOND
from firezone.datapath.path import SLAB_SIZE
from firezone.datapath.tables import Tables
from firezone.io import http_server, tun_device, udp_socket
from firezone.kernels.batch import PacketBatch, RunList
from firezone.kernels.ring import PacketRing
from firezone.kernels.types import PREFIX_SIZE, SLOT_SIZE
from firezone.loop import engine
from firezone.loop import portal as portal_loop
from firezone.loop.memory import MemoryTun
from firezone.proto import tunnel_state
from firezone.proto.client import pending_flows
from firezone.proto.ice import agent, candidates
from firezone.proto.ice.checks import IceCredentials
from firezone.proto.noise import cookie, peer
from firezone.proto.phoenix import channel
from firezone.proto.snownet import connection
from firezone.proto.snownet import events as node_events
from firezone.proto.snownet.events import Outbox, Role
from firezone.proto.snownet.node import Node
from firezone.proto.turn import allocation, channels
from firezone.wire.ip import decode_ip
from tests.harness import packets
from tests.harness.sessions import SlowSessionStore

ROOT = Path(__file__).parent.parent.parent
KIB, MIB = 1 << 10, 1 << 20

QUEUES = {
    "proto/phoenix/channel.py": {"_queue": "MAX_QUEUE", "_events": "polled after every input, which yields a handful"},
    "proto/noise/peer.py": {
        "_queue": "MAX_QUEUED_PACKETS",
        "_transmits": "MAX_QUEUED_TRANSMITS",
        "_events": "one per handshake, drained by the connection at once",
    },
    "proto/ice/agent.py": {
        "_transmits": "one per pair and answer, drained by the connection at once; MAX_PAIRS bounds a drain",
        "_events": "one per change of state, drained by the connection at once",
    },
    "proto/ice/pair.py": {"checks": "trimmed to the attempts of the timings with every check"},
    "proto/snownet/connection.py": {"_packets": "MAX_BUFFERED", "_datagrams": "MAX_BUFFERED"},
    "proto/snownet/events.py": {
        "control": "MAX_TRANSMITS",
        "transmits": "MAX_TRANSMITS",
        "events": "candidates and ends of connections, drained by the machine after every input",
    },
    "proto/turn/allocation.py": {
        "_transmits": "one per request that became due, drained by the node after every input",
        "_events": "candidates and channels that came or went, drained by the node after every input",
    },
    "proto/tunnel_state.py": {
        "_events": "polled after every input; TUN configuration and resource list replace their former",
        "_updates": "at most one per network and peer that the state knows, applied after every input",
        "_packets": "MAX_PACKETS",
    },
    "proto/portal/service.py": {"_outputs": "polled after every input; what waits for a socket is bounded by MAX_QUEUED_FRAMES"},
    "proto/relay/server.py": {"_outgoing": "MAX_RELAY_REPLIES"},
    "loop/portal.py": {"queue": "MAX_QUEUED_FRAMES"},
    "io/tun_device.py": {"_waiting": "MAX_WAITING_BYTES"},
    "io/udp_socket.py": {"waiting": "MAX_WAITING_BYTES"},
}
"""Every queue of the package: module, attribute, and the constant that bounds it or the reason why nothing piles up."""


def queues_of(path: Path) -> set[str]:
    """The attributes of a module that are annotated as queues."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.AnnAssign) and re.match(r"(collections\.)?deque\b|asyncio\.Queue\b", ast.unparse(node.annotation)):
            target = node.target
            found.add(target.attr if isinstance(target, ast.Attribute) else ast.unparse(target))
    return found


def test_every_queue_of_the_package_is_entered_here() -> None:
    found = {
        str(path.relative_to(ROOT / "firezone")): queues_of(path)
        for path in sorted((ROOT / "firezone").rglob("*.py"))
        if "lab" not in path.parts and queues_of(path)
    }
    assert found == {module: set(queues) for module, queues in QUEUES.items()}


def test_no_queue_is_made_without_an_annotation_that_this_test_can_see() -> None:
    for path in (ROOT / "firezone").rglob("*.py"):
        made = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("deque", "collections.deque", "asyncio.Queue")
        ]
        entered = QUEUES.get(str(path.relative_to(ROOT / "firezone")), {})
        assert len(made) <= len(entered) or "lab" in path.parts, path


@pytest.mark.parametrize(("module", "attribute"), [(module, name) for module, queues in QUEUES.items() for name in queues])
def test_the_constant_that_bounds_a_queue_is_used_beside_it(module: str, attribute: str) -> None:
    text = (ROOT / "firezone" / module).read_text()
    bound = QUEUES[module][attribute]
    if bound.isupper():
        assert len(re.findall(rf"\b{bound}\b", text)) >= 2, "defined, and enforced"


# sizes that follow from each other


def test_a_datagram_is_a_packet_with_both_headers() -> None:
    assert limits.MAX_DATAGRAM_SIZE == 1280 + 32 + 4 == 1316


def test_a_slot_holds_the_largest_read() -> None:
    largest_ip, vnet_header = 65_535, 10
    assert largest_ip + vnet_header <= SLOT_SIZE
    largest_train = limits.MAX_SEGMENTS * limits.MAX_DATAGRAM_SIZE
    assert largest_train > 65_535, "so the length of a UDP datagram is the bound of a train"


def test_a_prefix_holds_the_largest_headers() -> None:
    vnet_header, ipv6, tcp = 10, 40, 60
    assert vnet_header + ipv6 + tcp <= PREFIX_SIZE


def test_a_full_tick_fits_a_batch() -> None:
    assert limits.READS_PER_ROUND * limits.MAX_SEGMENTS_PER_READ <= limits.BATCH_ROWS


def test_the_outgoing_slab_holds_everything_a_tick_can_cut() -> None:
    largest_read, headers = 65_535, 100
    every_segment = limits.WIREGUARD_OVERHEAD + headers
    # A read of n segments carries its headers once and gives them to each of its segments.
    segments = limits.MAX_SEGMENTS_PER_READ
    for count in (1, 44, segments):
        payload = min(largest_read, count * limits.MAX_PACKET_SIZE)
        assert payload + count * limits.WIREGUARD_OVERHEAD <= (SLAB_SIZE - limits.MAX_PACKET_SIZE) // limits.READS_PER_ROUND
    assert limits.BATCH_ROWS * every_segment <= SLAB_SIZE
    assert SLAB_SIZE < MIB


# the figures


def test_rings_hold_four_mebibytes_each() -> None:
    ring = PacketRing(limits.RING_SLOTS)
    assert ring.slab.nbytes == limits.RING_SLOTS * SLOT_SIZE == 4_198_400
    assert ring.slab.nbytes <= 4.01 * MIB
    assert limits.RING_SLOTS >= 8 * limits.READS_PER_ROUND


def test_a_ring_that_is_full_takes_nothing_more() -> None:
    tun = MemoryTun()
    packet = packets.udp("10.0.0.1", "10.0.0.2", bytes(1000))
    assert [tun.send(packet) for _ in range(limits.RING_SLOTS + 3)] == [True] * limits.RING_SLOTS + [False] * 3


def test_what_an_engine_allocates_once_leaves_room_in_120_mebibytes() -> None:
    batch = PacketBatch(limits.BATCH_ROWS)
    columns = [getattr(batch, name) for name in PacketBatch.__dict__ if not name.startswith("_")]
    batch_size = sum(column.nbytes for column in columns if hasattr(column, "nbytes"))
    runs_size = RunList(limits.BATCH_ROWS).runs.nbytes
    assert limits.BATCH_ROWS * PREFIX_SIZE < batch_size < 512 * KIB
    assert runs_size < 128 * KIB
    rings = 2 * PacketRing(limits.RING_SLOTS).slab.nbytes
    waiting = 2 * udp_socket.MAX_WAITING_BYTES + tun_device.MAX_WAITING_BYTES
    assert rings + waiting + SLAB_SIZE + 2 * (batch_size + runs_size) < 20 * MIB


def test_waiting_queues_of_the_kernels_ends_hold_two_ticks() -> None:
    full_tick = limits.READS_PER_ROUND * limits.MAX_SEGMENTS * limits.MAX_DATAGRAM_SIZE
    assert udp_socket.MAX_WAITING_BYTES == 4 * MIB >= 2 * full_tick
    assert tun_device.MAX_WAITING_BYTES == MIB >= limits.READS_PER_ROUND * 65_535
    assert udp_socket.MAX_WAITING_TIME == tun_device.MAX_WAITING_TIME == SECOND // 50


def test_a_connection_under_way_holds_320_kibibytes() -> None:
    waiting = connection.MAX_BUFFERED * (limits.MAX_PACKET_SIZE + limits.MAX_DATAGRAM_SIZE)
    assert waiting <= 325 * KIB


def test_a_peer_without_a_session_holds_a_mebibyte() -> None:
    queued = peer.MAX_QUEUED_PACKETS * limits.MAX_PACKET_SIZE
    transmits = peer.MAX_QUEUED_TRANSMITS * limits.MAX_DATAGRAM_SIZE
    assert queued == 320 * KIB
    assert peer.MAX_QUEUED_TRANSMITS >= 2 * peer.MAX_QUEUED_PACKETS
    assert queued + transmits <= MIB


def test_a_resource_that_waits_for_access_holds_160_kibibytes() -> None:
    assert pending_flows.MAX_BUFFERED * limits.MAX_PACKET_SIZE == 160 * KIB


def test_what_a_machine_has_to_say_is_bounded() -> None:
    assert node_events.MAX_TRANSMITS * limits.MAX_DATAGRAM_SIZE < 11 * MIB
    assert tunnel_state.MAX_PACKETS * limits.MAX_PACKET_SIZE <= 1.3 * MIB
    assert tunnel_state.MAX_PACKETS >= pending_flows.MAX_BUFFERED
    assert engine.OUTPUTS_PER_TICK * limits.MAX_DATAGRAM_SIZE < 1.3 * MIB


def test_tables_of_strangers_are_bounded() -> None:
    assert cookie.MAX_SOURCES <= 1024, "source addresses under a flood"
    assert agent.MAX_PAIRS <= 100
    assert candidates.MAX_CANDIDATES <= 200
    assert http_server.MAX_CONNECTIONS * http_server.MAX_REQUEST_SIZE <= 256 * KIB


def test_the_portals_queues_are_bounded() -> None:
    assert channel.MAX_QUEUE == 32
    assert portal_loop.MAX_QUEUED_FRAMES <= 1024
    assert portal_loop.MAX_MESSAGE_SIZE <= 2 * MIB


def test_an_allocation_is_bounded_whatever_peers_announce() -> None:
    assert channels.MAX_CHANNELS == 4096
    assert allocation.MAX_WAITING == 100


# and what happens at the bound


def test_the_oldest_datagrams_go_when_nobody_polls() -> None:
    outbox = Outbox()
    somewhere = Endpoint.from_text("192.0.2.1", 1)
    for number in range(node_events.MAX_TRANSMITS + 5):
        outbox.transmits.append(Transmit(None, somewhere, number.to_bytes(4, "big")))
    assert len(outbox.transmits) == node_events.MAX_TRANSMITS
    assert outbox.transmits[0].payload == (5).to_bytes(4, "big")


def test_a_client_that_is_connecting_keeps_the_newest_and_a_gateway_none() -> None:
    for role in Role:
        node = Node(role, store=SlowSessionStore(), rng=SeededRng(1), now=0, utc=0)
        node.set_local_addresses([Endpoint.from_text("192.0.2.1", 1)], 0)
        cid = ConnectionId("peer")
        node.upsert_connection(
            cid, bytes([9]) + bytes(31), bytes(32), IceCredentials("a", "a" * 22), IceCredentials("b", "b" * 22), 0
        )
        (made,) = node._connections
        for number in range(connection.MAX_BUFFERED + 5):
            packet = packets.udp("100.64.0.1", "10.0.0.7", number.to_bytes(4, "big"))
            if role is Role.GATEWAY:
                with pytest.raises(StillConnecting):
                    node.encapsulate(cid, packet, 0)
            else:
                node.encapsulate(cid, packet, 0)
        assert len(made._packets) == (connection.MAX_BUFFERED if role is Role.CLIENT else 0)


def test_many_resources_that_wait_are_bounded_each() -> None:
    flows = pending_flows.PendingFlows()
    for number in range(1000):
        packet = packets.udp("100.64.0.1", "10.0.0.7", number.to_bytes(4, "big"))
        flows.add(ResourceId(str(number % 3)), packet, decode_ip(packet), number)
    for resource in "012":
        assert len(flows.take(ResourceId(resource)) or ()) == pending_flows.MAX_BUFFERED


def test_the_session_table_grows_with_its_peers_and_not_before() -> None:
    assert limits.MAX_PEERS * limits.SESSIONS_PER_PEER == limits.MAX_SESSIONS
    table = Tables().sessions
    rows = [table.add_peer() for _ in range(100)]
    assert len(set(rows)) == 100
    for row in rows:
        table.remove_peer(row)
    assert table.add_peer() in rows, "a row that is free is used again"


def test_what_a_relay_remembers_of_its_clients_has_a_figure() -> None:
    nonce_row = 320  # key, endpoint, address bytes, row and its share of the dictionary
    assert limits.MAX_NONCE_CLIENTS * nonce_row <= 20 * MIB
    assert limits.MAX_RELAY_REPLIES >= 2 * limits.BATCH_ROWS
    assert limits.MAX_RELAY_WAITING_BYTES <= 64 * MIB
    assert limits.MAX_ALLOCATIONS_PER_ADDRESS * 4 == 65_535 - 49_152 + 1
    assert limits.MAX_CHANNELS_PER_ALLOCATION == 0x5000 - 0x4000
    assert limits.MAX_CHANNELS >= 16 * (65_535 - 49_152 + 1)
