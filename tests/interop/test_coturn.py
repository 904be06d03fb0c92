"""Our TURN client against coturn: both ways of credentials, both families and their mixture, nonces that go stale, refreshes.

┌── relay ───────────────────┐   veth   ┌── clients ─────────────────────┐
│ turnserver, port 3478      │          │ two allocations of ours, whose │
│ 203.0.113.1, 2001:db8:5::1 │ ──────── │ data crosses the relay twice   │
└────────────────────────────┘          └────────────────────────────────┘
"""

from __future__ import annotations

import base64
import hmac
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from firezone.proto.turn.events import CandidateLost
from firezone.wire.candidate import CandidateKind
from firezone.wire.stun import Method
from tests.harness.namespaces import Namespace, connect
from tests.interop.turn_peer import TurnPeer, run

pytestmark = [pytest.mark.root, pytest.mark.interop]

RELAY4, RELAY6 = "203.0.113.1", "2001:db8:5::1"
HOST4, HOST6 = "203.0.113.2", "2001:db8:5::2"
USER, PASSWORD, SECRET = "user", "password", "static secret"
"""Realm of both ends: firezone."""


def rest_credentials() -> tuple[str, str]:
    """Username and password that `use-auth-secret` accepts for an hour."""
    username = f"{int(time.time()) + 3600}:someone"
    return username, base64.b64encode(hmac.digest(SECRET.encode(), username.encode(), "sha1")).decode()


class Coturn:
    """The relay in its namespace, and clients of it in theirs."""

    def __init__(self, relay: Namespace, clients: Namespace, log: Path) -> None:
        self._relay = relay
        self._clients = clients
        self._log = log
        self._peers: list[TurnPeer] = []

    def start(self, *options: str, hosts: tuple[str, ...] = (RELAY4, RELAY6), secret: bool = False) -> None:
        """Starts turnserver and waits until it answers."""
        mechanism = (
            ["--use-auth-secret", f"--static-auth-secret={SECRET}"] if secret else ["--lt-cred-mech", f"--user={USER}:{PASSWORD}"]
        )
        addresses = [f"--{kind}-ip={host}" for host in hosts for kind in ("listening", "relay")]
        command = [
            "turnserver", "--no-cli", "--no-tls", "--no-dtls", "--no-tcp", "--listening-port=3478", "--realm=firezone",
            "--verbose", "--log-file=stdout", "--simple-log", f"--pidfile={self._log}.pid", f"--userdb={self._log}.db",
            *mechanism, *addresses, *options,
        ]  # fmt: skip
        with self._log.open("w") as log:
            self._relay.spawn(*command, stdout=log)

    def peer(self, *servers: str, credentials: tuple[str, str] = (USER, PASSWORD)) -> TurnPeer:
        """Makes an allocation of ours at these addresses of the relay."""
        hosts = [HOST6 if ":" in server else HOST4 for server in servers]
        peer = TurnPeer(self._clients, hosts, list(servers), *credentials)
        self._peers.append(peer)
        return peer

    def allocated(self, *servers: str, credentials: tuple[str, str] = (USER, PASSWORD)) -> TurnPeer:
        """The same, and waits until it is granted."""
        peer = self.peer(*servers, credentials=credentials)
        assert run([peer], lambda: bool(peer.lent)), self.report(peer)
        return peer

    def report(self, *peers: TurnPeer) -> str:
        """What happened, for a failed assertion."""
        said = [f"sent {[int(m.method) for m in peer.sent][-40:]}, errors {peer.errors()[-40:]}" for peer in peers]
        return "\n".join([*said, self._log.read_text()[-4000:]])

    def close(self) -> None:
        for peer in self._peers:
            peer.close()


@pytest.fixture
def coturn(tmp_path: Path) -> Iterator[Coturn]:
    if shutil.which("turnserver") is None:
        pytest.skip("coturn is not installed: apt-get install coturn")
    with Namespace() as relay, Namespace() as clients:
        connect(relay, clients, "outer", [f"{RELAY4}/24", f"{RELAY6}/64"], [f"{HOST4}/24", f"{HOST6}/64"])
        bench = Coturn(relay, clients, tmp_path / "turnserver.log")
        yield bench
        bench.close()


def exchange(bench: Coturn, left: TurnPeer, right: TurnPeer, *, is_ipv4: bool = True) -> None:
    """Binds channels between two lent addresses and sends data both ways over them."""
    left.bind(right.lent[is_ipv4])
    right.bind(left.lent[is_ipv4])
    for sender, receiver in ((left, right), (right, left)):
        assert deliver(sender, receiver, is_ipv4=is_ipv4), bench.report(left, right)


def deliver(sender: TurnPeer, receiver: TurnPeer, *, is_ipv4: bool) -> bool:
    """Sends a full-sized payload; again when it was lost, since the first may come before the channel is bound."""
    payload = os.urandom(1280 + 32)
    expected = sender.lent[is_ipv4], payload
    for _ in range(10):
        sender.send(receiver.lent[is_ipv4], payload)
        if run([sender, receiver], lambda: expected in receiver.received, 0.5):
            return True
    return False


@pytest.mark.parametrize("is_secret", [False, True], ids=["lt-cred-mech", "use-auth-secret"])
@pytest.mark.parametrize("server", [RELAY4, RELAY6], ids=["v4", "v6"])
def test_data_crosses_two_allocations_both_ways(coturn: Coturn, server: str, is_secret: bool) -> None:
    coturn.start(secret=is_secret)
    credentials = rest_credentials() if is_secret else (USER, PASSWORD)
    left, right = (coturn.allocated(server, credentials=credentials) for _ in range(2))
    exchange(coturn, left, right, is_ipv4=":" not in server or True in left.lent)


def test_families_are_mixed(coturn: Coturn) -> None:
    """A client that speaks IPv4 with the relay and one that speaks IPv6 meet at their lent addresses."""
    coturn.start()
    left, right = coturn.allocated(RELAY4), coturn.allocated(RELAY6)
    shared = sorted(set(left.lent) & set(right.lent))
    assert shared, coturn.report(left, right)
    for is_ipv4 in shared:
        exchange(coturn, left, right, is_ipv4=is_ipv4)


def test_a_dual_stack_client_uses_the_family_that_answers_first(coturn: Coturn) -> None:
    """Coturn lends one address, although ADDITIONAL-ADDRESS-FAMILY asks for two."""
    coturn.start()
    left, right = (coturn.allocated(RELAY4, RELAY6) for _ in range(2))
    kinds = sorted((item.candidate.kind, item.candidate.endpoint.is_ipv4) for item in left.allocation.candidates())
    assert set(kinds) >= {
        (kind, family) for kind in (CandidateKind.HOST, CandidateKind.SERVER_REFLEXIVE) for family in (True, False)
    }
    for is_ipv4 in set(left.lent) & set(right.lent):
        exchange(coturn, left, right, is_ipv4=is_ipv4)


def test_a_relay_without_ipv6_lends_one_address(coturn: Coturn) -> None:
    coturn.start(hosts=(RELAY4,))
    peer = coturn.allocated(RELAY4)
    assert set(peer.lent) == {True}


def test_stale_nonces_are_replaced(coturn: Coturn) -> None:
    coturn.start("--stale-nonce=1")
    left, right = coturn.allocated(RELAY4), coturn.allocated(RELAY4)
    run([left, right], lambda: False, 2.5)
    exchange(coturn, left, right)
    assert 438 in left.errors(), coturn.report(left)
    assert left.allocation.end_reason is None


def test_an_allocation_outlives_its_lifetime_by_refreshes(coturn: Coturn) -> None:
    coturn.start("--max-allocate-lifetime=3")
    left, right = coturn.allocated(RELAY4), coturn.allocated(RELAY4)
    lent = dict(left.lent)
    run([left, right], lambda: False, 7)
    assert left.requests(Method.REFRESH) >= 1, coturn.report(left)
    assert left.lent == lent, coturn.report(left)
    assert not [event for event in left.events if isinstance(event, CandidateLost)]
    exchange(coturn, left, right)


def test_an_allocation_left_over_on_our_port_is_released_and_made_anew(coturn: Coturn) -> None:
    coturn.start()
    left = coturn.allocated(RELAY4)
    again = coturn.peer(RELAY4)
    again.sockets[True].close()
    again.sockets = left.sockets
    assert run([again], lambda: bool(again.lent)), coturn.report(again)
    assert 437 in again.errors(), coturn.report(again)


def test_a_wrong_password_ends_it_without_a_storm(coturn: Coturn) -> None:
    coturn.start()
    peer = coturn.peer(RELAY4, credentials=(USER, "wrong"))
    assert run([peer], lambda: peer.allocation.end_reason is not None, 12), coturn.report(peer)
    assert peer.requests(Method.ALLOCATE) <= 8
    assert not peer.lent
