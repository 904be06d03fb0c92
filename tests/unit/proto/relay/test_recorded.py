"""Recorded sessions of the original: its clients' requests to our machine, which must answer as its relay did, byte for byte.

Nonces and ports, which are random, are those of the recording; everything else is ours: signatures, attributes, order.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from firezone.base.net import Endpoint
from firezone.base.rng import Rng, SeededRng
from firezone.base.secret import SecretText
from firezone.base.timing import Instant, seconds
from firezone.proto.relay import allocations, server
from firezone.proto.relay.auth import NonceCheck, Nonces
from firezone.proto.relay.server import RelayServer
from firezone.wire import stun
from firezone.wire.stun import Attribute, MessageClass, Method
from tests.harness.relay import UTC, SlowChannels, SlowPorts

VECTORS = Path(__file__).parents[3] / "vectors"
LISTEN_PORT = 3478
LOWEST = 49152


def endpoint(text: str) -> Endpoint:
    host, _, port = text.rpartition(":")
    return Endpoint.from_text(host.strip("[]"), int(port))


class Session:
    """One recording, and a server that draws its random numbers from it."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        lines: list[dict[str, Any]] = [json.loads(line) for line in (VECTORS / f"{name}.jsonl").read_text().splitlines()]
        self.datagrams = [
            (seconds(line["t"]), endpoint(line["from"]), endpoint(line["to"]), bytes.fromhex(line["hex"]))
            for line in lines
            if "hex" in line
        ]
        self.answers = {
            datagram[8:20]: (to, datagram)
            for _, source, to, datagram in self.datagrams
            if source.port == LISTEN_PORT and datagram[0] == 1
        }
        secret = re.search(r'"stamp_secret":"([0-9a-f]+)"', next(line["text"] for line in lines if line.get("event") == "phx_join"))
        assert secret is not None
        decoded = [stun.decode(datagram).message for _, datagram in self.answers.values()]
        relayed = [value for message in decoded for value in message.get_all(Attribute.XOR_RELAYED_ADDRESS)]
        nonces = {
            to: str(stun.decode(raw).message.get(Attribute.NONCE)) for to, raw in self.answers.values() if raw[:2] == b"\x01\x13"
        }
        ports = list(dict.fromkeys(each.port for each in relayed))
        self.relayed = {each for each in relayed}
        monkeypatch.setattr(server, "Nonces", lambda rng: RecordedNonces(rng, nonces))
        monkeypatch.setattr(allocations, "below", lambda rng, bound: free.index(ports.pop(0)))
        self.log: list[tuple[object, ...]] = []
        self.channels = SlowChannels(self.log)
        self.server = RelayServer(
            public_ip4=next((each.ip for each in relayed if each.is_ipv4), None),
            public_ip6=next((each.ip for each in relayed if not each.is_ipv4), None), lowest_port=LOWEST, highest_port=65535,
            secret=SecretText(secret[1]), rng=SeededRng(0), now=0, utc=UTC, channels=self.channels, ports=SlowPorts(self.log),
        )  # fmt: skip
        free: list[int] = self.server._allocations._free

    def replay(self, at: Instant, client: Endpoint, relay: Endpoint, datagram: bytes) -> tuple[Endpoint, bytes] | None:
        """Hands one request in and returns the answer."""
        self.server.handle_datagram(relay, client, datagram, at)
        sent = self.server.poll_transmit()
        assert self.server.poll_transmit() is None
        return None if sent is None else (sent.remote, sent.payload)


class RecordedNonces(Nonces):
    def __init__(self, rng: Rng, recorded: dict[Endpoint, str]) -> None:
        super().__init__(rng)
        self._recorded = recorded

    def current(self, client: Endpoint, now: Instant) -> str:
        return self._recorded[client]

    def use(self, client: Endpoint, text: str, now: Instant) -> NonceCheck:
        return NonceCheck.GOOD if text == self._recorded[client] else NonceCheck.STALE


SESSIONS = ["base-direct", "base-relayed", "base-ipv6", "new-direct", "new-relayed", "new-iceless"]


@pytest.mark.parametrize("name", SESSIONS)
def test_every_recorded_request_gets_the_recorded_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(name, monkeypatch)
    compared = set()
    for at, client, relay, datagram in session.datagrams:
        if relay.port != LISTEN_PORT or datagram[0] > 3:
            continue
        if datagram[8:20] in session.answers:  # the first Bindings were sent before the relay was up
            assert session.replay(at, client, relay, datagram) == session.answers[datagram[8:20]]
            compared.add(stun.decode(datagram).message.method)
    assert compared >= {Method.BINDING, Method.ALLOCATE}
    assert (Method.CHANNEL_BIND in compared) == (name in ("new-direct", "new-relayed", "base-ipv6"))


@pytest.mark.parametrize("name", ["new-direct", "new-relayed"])
def test_channel_data_between_two_clients_comes_out_as_recorded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(name, monkeypatch)
    arrived = {(to, datagram) for _, source, to, datagram in session.datagrams if source.port == LISTEN_PORT}
    through = 0
    for at, client, relay, datagram in session.datagrams:
        if relay.port != LISTEN_PORT:
            continue
        if datagram[0] <= 3:
            session.replay(at, client, relay, datagram)
            continue
        hop = session.channels.from_client(client, datagram)
        assert hop is not None, "a channel the client was told is bound"
        port, peer, data = hop
        if peer in session.relayed:
            back = session.channels.from_peer(peer.port, Endpoint(peer.ip, port), data)
            assert back is None or back in arrived  # None: the other has not bound its channel yet
            through += back is not None
    assert through > 5


def test_answers_of_the_recording_are_signed_with_the_portals_password(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session("base-relayed", monkeypatch)
    text = (VECTORS / "base-relayed.jsonl").read_text()
    found = re.findall(r'\\"username\\":\\"([^"\\]+)\\",\\"password\\":\\"([^"\\]+)\\"', text)
    keys = [stun.long_term_key(username, "firezone", password) for username, password in found]
    assert keys
    for _, raw in session.answers.values():
        received = stun.decode(raw)
        if received.message.method != Method.BINDING and received.message.message_class is MessageClass.SUCCESS:
            assert any(received.verify_integrity(key) for key in keys)
