"""UDP through a tunnel: one flow between the client's host and the resource, at a rate or as much as comes through."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
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
class Flow:
    """The sockets at both ends."""

    client: socket.socket
    resource: socket.socket
    source: tuple[str, int]
    """Where the client's datagrams come from, as the resource sees it."""

    @classmethod
    def open(cls, topology: Topology) -> Flow:
        """Makes the sockets and lets one datagram through. Raises MeasurementError when none arrives."""
        with inside(topology.client):
            client = sink()
        with inside(topology.resource):
            resource = sink()
        try:
            resource.bind((RESOURCE_ADDRESS, PORT))
            client.connect((RESOURCE_ADDRESS, PORT))
            return cls(client, resource, _greet(client, resource))
        except BaseException:
            client.close()
            resource.close()
            raise

    def close(self) -> None:
        self.client.close()
        self.resource.close()

    def way(self, *, up: bool, size: int) -> Way:
        """Returns one direction with datagrams of `size` bytes."""
        plan, data = load.Plan(), MAGIC + os.urandom(size - len(MAGIC))
        for _ in range(_CALL):
            if up:
                plan.add(self.client.fileno(), data, 0)
            else:
                plan.add(self.resource.fileno(), data, 0, socket.inet_aton(self.source[0]), self.source[1])
        plan.seal(_CALL)
        sinks = load.Sinks([(self.resource if up else self.client).fileno()])
        sinks.expect(size, MAGIC, 0)
        return Way(plan, sinks)


def _greet(client: socket.socket, resource: socket.socket) -> tuple[str, int]:
    resource.settimeout(_HELLO_S)
    for _ in range(_HELLO_TRIES):
        client.send(b"hello")
        try:
            source: tuple[str, int] = resource.recvfrom(64)[1]
        except TimeoutError:
            continue
        resource.setblocking(False)
        return source
    raise MeasurementError("No UDP datagram reached the resource.")


@dataclass(slots=True)
class Way:
    """One direction of a flow."""

    plan: load.Plan
    sinks: load.Sinks

    def most(self, contender: Contender, seconds: float) -> tuple[float, float, dict[str, float]]:
        """Sends as much as comes through.

        Returns: datagrams received, seconds, and CPU seconds by part of the contender meanwhile.
        Raises:  MeasurementError when nothing comes through or what arrives is not what was sent.
        """
        self._run(WARM_UP_S)
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
