"""New connections at a gateway: how many it takes per CPU second, with all that belongs to one and as bare WireGuard handshakes.

Ours takes new clients with access from the portal, connectivity checks, handshake and first packet (`perf.crowd`). A plain
WireGuard program has nothing but handshakes. Both answer as they run, over their sockets; our bare handshakes are
timed in this process, since no packet makes a gateway of ours answer one without the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import time
from base64 import b64decode
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firezone.base.errors import RemoteError, WireError
from firezone.base.ids import ReceiverIndex
from firezone.lab.measure import MeasurementError
from firezone.lab.namespaces import die_with_parent
from firezone.lab.programs import python
from firezone.lab.stack import API_URL
from firezone.lab.topology import GATEWAY_ADDRESS, RESOURCE_ADDRESS
from firezone.proto.noise.handshake import (
    PendingInitiation,
    RemoteKeys,
    StaticKeys,
    initiate,
    open_initiation,
    sign,
    tai64n,
    verify_mac1,
)
from firezone.wire.wireguard import Initiation, Response, decode
from perf.contenders import WIREGUARD_PORT, Firezone, WireGuard
from perf.processes import cpu_seconds
from perf.relay.lanes import inside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firezone.lab.namespaces import Namespace
    from perf.contenders import Contender

CLIENTS = 256
PUBLIC_NETWORK, FIRST_HOST = "198.51.100", 100
"""Where new clients are; the lab's own hosts have the first numbers."""
AT_ONCE = 16
"""Initiations on their way: fewer than make any program think that it is under load and demand cookies of strangers."""
WAIT_S = 0.5
RESPONSE_SIZE = 92


class Random:
    """The operating system's randomness."""

    def bytes(self, count: int) -> bytes:
        return os.urandom(count)


@dataclass(slots=True)
class Caller:
    """A client that a gateway has never heard of, with its initiation."""

    keys: StaticKeys
    remote: RemoteKeys
    pending: PendingInitiation
    datagram: bytes

    @classmethod
    def prepare(cls, number: int, gateway: bytes) -> Caller:
        rng = Random()
        keys = StaticKeys.generate(rng)
        remote = RemoteKeys(keys, gateway, None)
        message, pending = initiate(keys, remote, ReceiverIndex(number + 1), tai64n(time.time_ns()), rng)
        return cls(keys, remote, pending, sign(message, remote.mac1_key, None))

    def understands(self, datagram: bytes) -> bool:
        """Tells whether a datagram is the answer to its initiation."""
        try:
            response = decode(datagram)
            if not isinstance(response, Response) or response.receiver != self.pending.index:
                return False
            self.pending.accept(response, self.keys, self.remote)
        except (WireError, RemoteError):
            return False
        return True


def per_cpu_second(contender: Contender, clients: int = CLIENTS) -> dict[str, float]:
    """Returns the connections that a gateway takes per CPU second; nothing for a contender that has no gateway of its own."""
    if isinstance(contender, WireGuard):
        rate = over_socket(contender, clients)
        return {"handshakes_per_cpu": rate} if rate else {}
    if type(contender) is not Firezone:
        return {}
    return {**new_clients(contender, clients // 4), "handshakes_per_cpu": in_process(clients)}


def new_clients(contender: Firezone, clients: int) -> dict[str, float]:
    """Lets clients that the gateway has never heard of reach the resource, each from an address of its own on the public segment.

    Returns: clients per CPU second of the gateway, and per second of all programs together.
    Raises:  MeasurementError when one of them does not reach it.
    """
    addresses = [f"{PUBLIC_NETWORK}.{FIRST_HOST + number}" for number in range(clients)]
    order = {"url": API_URL, "token": contender.tokens["client"], "target": RESOURCE_ADDRESS, "addresses": addresses}
    gateway = contender.programs["gateway"].process.pid
    with _addresses(contender.topology.public, addresses), (contender.logs / "crowd.log").open("ab") as log:
        command = contender.topology.public.command(*python("perf.crowd", json.dumps(order)))
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, preexec_fn=die_with_parent
        ) as crowd:
            assert crowd.stdin is not None
            assert crowd.stdout is not None
            if crowd.stdout.readline() != b"ready\n":
                raise MeasurementError(f"{clients} clients could not log in; see {log.name}.")
            before = cpu_seconds(gateway)
            crowd.stdin.write(b"go\n")
            crowd.stdin.flush()
            answer = crowd.stdout.readline()
            used = cpu_seconds(gateway) - before
    if not answer:
        raise MeasurementError(f"One of {clients} clients did not reach the resource; see {log.name}.")
    return {"connections_per_cpu": clients / used, "connections_per_s": clients / json.loads(answer)["seconds"]}


@contextlib.contextmanager
def _addresses(namespace: Namespace, addresses: list[str]) -> Iterator[None]:
    """Gives the host on the public segment more addresses for a while."""
    for address in addresses:
        namespace.run("ip", "address", "add", f"{address}/24", "dev", "segment")
    try:
        yield
    finally:
        for address in addresses:
            namespace.run("ip", "address", "del", f"{address}/24", "dev", "segment")


def over_socket(contender: WireGuard, clients: int) -> float:
    """Returns the handshakes that a WireGuard program answers per CPU second; 0 when it does not answer all of them."""
    callers = [Caller.prepare(number, b64decode(contender.public_key("gateway"))) for number in range(clients)]
    contender.admit([caller.keys.public for caller in callers])
    with inside(contender.topology.client):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.connect((GATEWAY_ADDRESS, WIREGUARD_PORT))
        before = contender.cpu_seconds()["gateway"]
        answers = exchange(sock, [caller.datagram for caller in callers])
        used = contender.cpu_seconds()["gateway"] - before
    by_index: dict[int, Caller] = {caller.pending.index: caller for caller in callers}
    answered = sum(by_index[index].understands(answer) for index, answer in answers.items() if index in by_index)
    return clients / used if answered == clients and used > 0 else 0.0


def exchange(sock: socket.socket, initiations: list[bytes]) -> dict[int, bytes]:
    """Sends initiations, AT_ONCE on their way, and returns the answers by the index they are for; gives up after a silence."""
    answers: dict[int, bytes] = {}
    waiting, sent = list(initiations), 0
    while len(answers) < len(initiations):
        while waiting and sent - len(answers) < AT_ONCE:
            sock.send(waiting.pop(0))
            sent += 1
        if not select.select([sock], [], [], WAIT_S)[0]:
            break
        datagram = sock.recv(2048)
        if len(datagram) != RESPONSE_SIZE:
            break  # a cookie: it thinks that it is under load
        answers[int.from_bytes(datagram[8:12], "little")] = datagram
    return answers


def in_process(clients: int) -> float:
    """Returns how many initiations our code answers per CPU second, from datagram to datagram."""
    gateway = StaticKeys.generate(Random())
    callers = [Caller.prepare(number, gateway.public) for number in range(clients)]
    before = time.thread_time()
    answers = [_answer(gateway, caller.datagram, number) for number, caller in enumerate(callers)]
    used = time.thread_time() - before
    assert all(caller.understands(answer) for caller, answer in zip(callers, answers, strict=True))
    return clients / used


def _answer(gateway: StaticKeys, datagram: bytes, number: int) -> bytes:
    assert verify_mac1(datagram, gateway.mac1_key)
    message = decode(datagram)
    assert isinstance(message, Initiation)
    received = open_initiation(gateway, message)
    remote = RemoteKeys(gateway, received.remote_public, None)
    response, _ = received.open_timestamp(remote)[1].answer(remote, ReceiverIndex(number + 1), Random())
    return sign(response, remote.mac1_key, None)
