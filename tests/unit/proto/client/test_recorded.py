"""The state against recorded sessions of both generations: what the portal said is obeyed, what we ask is what was asked.

See `tests/vectors/README.md`.
"""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest

from firezone.base.net import Endpoint
from firezone.base.rng import SeededRng
from firezone.base.timing import SECOND
from firezone.kernels.types import Reason
from firezone.proto.client.state import ClientState, MessageIgnored, TunConfig
from firezone.proto.tunnel_state import SendToPortal
from firezone.wire.phoenix import Push, decode_inbound
from firezone.wire.portal import client as wire1
from firezone.wire.portal.v2 import client as wire2
from tests.harness import packets
from tests.harness.sessions import SlowSessionStore
from tests.unit.proto.client.names_bench import query

VECTORS = Path(__file__).resolve().parents[3] / "vectors"
WIRES: dict[int, Any] = {1: wire1, 2: wire2}
REQUESTS = {1: "create_flow", 2: "request_authorization"}
CANDIDATES = {1: "broadcast_ice_candidates", 2: "new_gateway_ice_candidates"}


class Replay:
    """A client of ours in the place of the recorded one."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.wire = WIRES[generation]
        self.now = 1000 * SECOND
        self.resources: dict[str, dict[str, Any]] = {}
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.others: list[object] = []
        self.state = ClientState(
            store=SlowSessionStore(), rng=SeededRng(1), now=self.now, utc=self.now, generation=generation
        )  # fmt: skip
        self.state.set_local_addresses([Endpoint.from_text("203.0.113.21", 52625)], self.now)
        self.state.set_internet_resource_state(True, self.now)

    def hear(self, push: Push) -> None:
        message = self.wire.FROM_PORTAL.decode(push.event, push.payload)
        self.state.handle_portal(message, self.now, self.now)
        self.listen()

    def listen(self) -> None:
        while (event := self.state.poll_event()) is not None:
            if isinstance(event, SendToPortal):
                name, payload = self.wire.TO_PORTAL.encode(event.message)
                self.said.append((name, json.loads(payload)))
            else:
                self.others.append(event)

    def want(self, resource_id: str) -> None:
        """A program of the host sends something to a resource."""
        self.now += 2 * SECOND
        resource = self.resources[resource_id]
        match resource["type"]:
            case "cidr":
                address = ipaddress.ip_network(resource["address"])[1 if "/32" not in resource["address"] else 0]
            case "dns":
                name = resource["address"].replace("**", "x").replace("*", "x")
                self.state.handle_dns_query(ipaddress.ip_address("100.100.111.1"), query(name), self.now)
                address = self.state._dns.resolver.proxies.of_name(name)[0]
            case _:
                address = ipaddress.ip_address("8.8.8.8")
        own = self.state.own_addresses[0 if address.version == 4 else 1]
        self.state.handle_packet(packets.echo(str(own), str(address)), 0, Reason.NO_PEER, self.now)
        self.listen()


def frames(name: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (VECTORS / f"{name}.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "portal" and line["role"] == "client" and line["dir"] in ("in", "out")]


@pytest.mark.parametrize("name", ["base-direct", "base-relayed", "base-ipv6", "new-direct", "new-relayed", "new-iceless"])
def test_a_recorded_session_is_asked_for_word_by_word(name: str) -> None:
    replay = Replay(1 if name.startswith("base") else 2)
    asked = granted = 0
    for line in frames(name):
        frame = json.loads(line["text"])
        if line["dir"] == "in":
            if line["event"] != REQUESTS[replay.generation]:
                continue
            replay.said.clear()
            replay.want(frame["payload"]["resource_id"])
            assert (line["event"], frame["payload"]) in replay.said
            asked += 1
            continue
        push = decode_inbound(line["text"])
        if not isinstance(push, Push):
            continue
        if line["event"] == "init":
            replay.resources = {resource["id"]: resource for resource in frame["payload"]["resources"]}
        replay.hear(push)
        if line["event"] in ("flow_created", "authorization_created"):
            granted += 1
            cid = frame["payload"]["gateway_id"]
            assert replay.state.node.row_of(cid) is not None
            assert replay.state._gateways.of(frame["payload"]["resource_id"]) == cid
    assert asked >= granted >= 1
    assert len(replay.state.node) == 1
    assert any(isinstance(event, TunConfig) for event in replay.others)


@pytest.mark.parametrize(("name", "generation"), [("base-direct", 1), ("new-direct", 2)])
def test_candidates_are_told_under_the_name_of_their_generation(name: str, generation: int) -> None:
    replay = Replay(generation)
    lines = frames(name)
    told = {line["event"] for line in lines if line["dir"] == "in"}
    for line in lines:
        push = decode_inbound(line["text"]) if line["dir"] == "out" else None
        if isinstance(push, Push):
            payload = json.loads(line["text"])["payload"]
            if line["event"] == "init":
                replay.resources = {resource["id"]: resource for resource in payload["resources"]}
            if "resource_id" in payload:
                replay.want(payload["resource_id"])
            replay.hear(push)
    names = {event for event, _ in replay.said}
    assert CANDIDATES[generation] in names & told
    assert names <= told | {"no_relays"}


def v2_push(event: str, **payload: Any) -> Push:
    found = decode_inbound(json.dumps({"topic": "client", "event": event, "payload": payload, "ref": None}))
    assert isinstance(found, Push)
    return found


def test_pools_of_devices_and_peers_are_none_of_our_business_and_spoil_nothing() -> None:
    replay = Replay(2)
    init = next(json.loads(line["text"])["payload"] for line in frames("new-direct") if line["event"] == "init")
    pool = {"type": "static_device_pool", "id": "a4c5d6e7-f809-4a1b-8c2d-3e4f50617244", "name": "x", "filters": [], "devices": []}
    laptops = {"type": "dynamic_device_pool", "id": "b5d6e7f8-091a-4b2c-9d3e-4f5061728355", "name": "x", "address": "*.l.test"}
    replay.hear(v2_push("init", **{**init, "resources": [*init["resources"], pool, laptops]}))
    replay.hear(v2_push("resource_created_or_updated", **laptops))
    replay.hear(v2_push("client_ice_candidate_error", client_id=pool["id"], reason="offline"))
    replay.hear(v2_push("reject_access", client_id=pool["id"], resource_id=pool["id"]))
    replay.hear(v2_push("client_device_access_denied", ipv4="100.70.1.2", reason="offline"))
    assert [event.what for event in replay.others if isinstance(event, MessageIgnored)] == [
        "StaticDevicePool", "DynamicDevicePool", "DynamicDevicePool", "PeerIceCandidateError", "RejectAccess",
        "ClientDeviceAccessDenied",
    ]  # fmt: skip
    assert set(replay.state._book.resources) == {resource["id"] for resource in init["resources"]}


@pytest.mark.parametrize(("generation", "expected"), [(1, "ReconnectPortal"), (2, "no_relays")])
def test_without_relays_and_addresses_the_portal_is_asked_in_the_way_of_its_generation(generation: int, expected: str) -> None:
    replay = Replay(generation)
    replay.state.set_local_addresses([], replay.now)
    for line in frames("base-direct" if generation == 1 else "new-direct"):
        push = decode_inbound(line["text"]) if line["dir"] == "out" else None
        if not isinstance(push, Push):
            continue
        payload = json.loads(line["text"])["payload"]
        if line["event"] == "init":
            replay.resources = {resource["id"]: resource for resource in payload["resources"]}
            push = v2_push("init", **{**payload, "relays": []})
        if "resource_id" in payload:
            replay.want(payload["resource_id"])
        replay.hear(push)
        if "resource_id" in payload:
            break
    assert expected in [type(event).__name__ for event in replay.others] + [event for event, _ in replay.said]
    assert len(replay.state.node) == 0


def test_the_second_generation_lets_filters_choose_among_the_resources_of_a_name() -> None:
    assert Replay(1).state._names._is_one_resource_per_name
    assert not Replay(2).state._names._is_one_resource_per_name
