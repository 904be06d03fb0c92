"""Checks the original's programs sent each other: our agent accepts each and answers it byte for byte as they did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from firezone.base.net import Endpoint
from firezone.base.rng import SeededRng
from firezone.proto.ice.agent import IceAgent
from firezone.proto.ice.candidates import host_candidate
from firezone.proto.ice.checks import IceCredentials
from firezone.wire import stun
from firezone.wire.stun import Attribute, MessageClass

VECTORS = Path(__file__).parents[3] / "vectors"


@pytest.mark.parametrize("name", ["base-direct", "base-ipv6", "base-relayed", "new-direct", "new-relayed"])
def test_recorded_checks_are_accepted_and_answered_alike(name: str) -> None:
    lines = [json.loads(line) for line in (VECTORS / f"{name}.jsonl").read_text().splitlines()]
    passwords = ice_passwords(lines)
    datagrams = [(line, bytes.fromhex(line["hex"])) for line in lines if line["kind"] == "stun"]
    messages = [(line, stun.decode(datagram)) for line, datagram in datagrams if stun.is_stun(datagram)]
    answers = {
        received.message.transaction_id: received.datagram
        for _, received in messages
        if received.message.message_class is MessageClass.SUCCESS
    }
    checked = compared = 0
    for line, received in messages:
        username = received.message.get(Attribute.USERNAME)
        if received.message.message_class is not MessageClass.REQUEST or username not in passwords:
            continue
        ours, theirs = passwords[username]
        agent = IceAgent(
            is_controlling=received.message.get(Attribute.ICE_CONTROLLED) is not None,
            local=ours,
            remote=theirs,
            rng=SeededRng(1),
        )
        local, remote = address(line["to"]), address(line["from"])
        agent.add_local(host_candidate(local), 0)
        assert agent.handle_message(local, remote, received, 0)
        answer = agent.poll_transmit()
        assert answer is not None
        assert (answer.source, answer.destination) == (local, remote)
        checked += 1
        if received.message.transaction_id in answers:
            assert answer.payload == answers[received.message.transaction_id]
            compared += 1
    assert checked >= 6
    assert compared >= 4 or "relayed" in name


def ice_passwords(lines: list[dict[str, Any]]) -> dict[str, tuple[IceCredentials, IceCredentials]]:
    """Both sides' credentials, ours first, by the USERNAME of a check to us."""
    found = {}
    for line in lines:
        payload = json.loads(line["text"]).get("payload") if line["kind"] == "portal" and "text" in line else None
        if not isinstance(payload, dict) or "client_ice_credentials" not in payload:
            continue
        client, gateway = (credentials(payload, who) for who in ("client", "gateway"))
        found[f"{client.ufrag}:{gateway.ufrag}"] = client, gateway
        found[f"{gateway.ufrag}:{client.ufrag}"] = gateway, client
    return found


def credentials(payload: dict[str, Any], who: str) -> IceCredentials:
    given = payload[f"{who}_ice_credentials"]
    return IceCredentials(given["username"], given["password"])


def address(text: str) -> Endpoint:
    host, _, port = text.rpartition(":")
    return Endpoint.from_text(host.strip("[]"), int(port))
