"""UDP through a tunnel: flows between the client's host and the resource, at a rate or as much as comes through."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from firezone.lab.measure import MeasurementError
from firezone.lab.topology import RESOURCE_ADDRESS
from perf.relay import load
from perf.relay.lanes import inside, sink
from perf.search import Trial, highest_without_loss

if TYPE_CHECKING:
    from firezone.lab.topology import Topology
    from perf.contenders import Contender

PORT = 20_000
WINDOW = 512
"""Datagrams on their way where as many are sent as come through."""
MAGIC = b"\x04\xfe\xed\x00"
WARM_UP_S = 0.1
_CALL = 32
"""Datagrams that leave in one call of the generator."""
_HELLO_TRIES, _HELLO_S = 20, 0.25


@dataclass(slots=True)
class Flows:
    """The sockets at both ends: every client's socket talks to every one of the resource."""

    clients: list[socket.socket]
    resources: list[socket.socket]
    sources: list[tuple[str, int]] = field(default_factory=list)
    """Where the datagrams of each client's socket come from, as the resource sees it."""

    @classmethod
    def open(cls, topology: Topology, clients: int = 1, resources: int = 1) -> Flows:
        """Makes the sockets and lets a datagram of each client's through. Raises MeasurementError when one does not arrive."""
        with inside(topology.client):
            ours = [sink() for _ in range(clients)]
        with inside(topology.resource):
            theirs = [sink() for _ in range(resources)]
        flows = cls(ours, theirs)
        try:
            for number, resource in enumerate(theirs):
                resource.bind((RESOURCE_ADDRESS, PORT + number))
            flows.sources = [_greet(client, theirs[0]) for client in ours]
        except BaseException:
            flows.close()
            raise
        theirs[0].setblocking(False)
        return flows

    def __len__(self) -> int:
        return len(self.clients) * len(self.resources)

    def close(self) -> None:
        for sock in (*self.clients, *self.resources):
            sock.close()

    def way(self, *, up: bool, size: int) -> Way:
        """Returns one direction with datagrams of `size` bytes: the flows of one socket in turn, then those of the next."""
        plan, data = load.Plan(), MAGIC + os.urandom(size - len(MAGIC))
        senders, receivers = (self.clients, self.resources) if up else (self.resources, self.clients)
        targets = [(RESOURCE_ADDRESS, PORT + number) for number in range(len(self.resources))] if up else self.sources
        packed = [(socket.inet_aton(address), port) for address, port in targets]
        for sender in senders:
            for _ in range(max(1, _CALL // len(packed))):
                for address, port in packed:
                    plan.add(sender.fileno(), data, 0, address, port)
        plan.seal(_CALL)
        sinks = load.Sinks([receiver.fileno() for receiver in receivers])
        sinks.expect(size, MAGIC, 0)
        return Way(plan, sinks)


def _greet(client: socket.socket, resource: socket.socket) -> tuple[str, int]:
    """Lets a client's datagram through and returns where it comes from."""
    hello = os.urandom(8)
    resource.settimeout(_HELLO_S)
    for _ in range(_HELLO_TRIES):
        client.sendto(hello, (RESOURCE_ADDRESS, PORT))
        try:
            data, source = resource.recvfrom(64)
            if data == hello:
                return str(source[0]), int(source[1])
        except TimeoutError:
            continue
    raise MeasurementError("No UDP datagram reached the resource.")


@dataclass(slots=True)
class Way:
    """One direction of all flows."""

    plan: load.Plan
    sinks: load.Sinks

    def most(self, contender: Contender, seconds: float, warm_up_s: float = WARM_UP_S) -> tuple[float, float, dict[str, float]]:
        """Sends as much as comes through, after a warm-up that does not count.

        Returns: datagrams received, seconds, and CPU seconds by part of the contender meanwhile.
        Raises:  MeasurementError when nothing comes through or what arrives is not what was sent.
        """
        self._run(warm_up_s)
        before = contender.cpu_seconds()
        done = self._run(seconds)
        used = {part: value - before[part] for part, value in contender.cpu_seconds().items()}
        if not done["received"] or done["wrong"]:
            raise MeasurementError(f"Of {done['sent']} datagrams {done['received']} arrived, {done['wrong']} of them changed.")
        return done["received"], done["elapsed_s"], used

    def lost_percent(self, rate: float, seconds: float) -> float:
        """Sends at a rate and returns the share that does not arrive, in percent."""
        self._run(WARM_UP_S, rate)
        done = self._run(seconds, rate)
        return float(100 * (1 - done["received"] / done["sent"]))

    def loss_free(self, guess: float, seconds: float) -> float:
        """Returns the highest rate without loss; each attempt takes so many seconds."""

        def attempt(rate: float) -> Trial:
            done = self._run(seconds, rate)
            return Trial(done["sent"] / done["elapsed_s"], int(done["sent"]), int(done["received"]))

        return highest_without_loss(attempt, guess, chances=2)

    def _run(self, seconds: float, rate: float = 0) -> dict[str, float]:
        done: dict[str, float] = load.run(self.plan, self.sinks, seconds, rate=rate, window=WINDOW)
        self.sinks.drain(0.02)
        return done
