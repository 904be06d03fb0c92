"""What is measured: cells of shape, direction, channels and payload, and one measurement of one relay in one cell."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firezone.base.net import Endpoint
from perf.relay import load
from perf.relay.lanes import FIRST_PEER_PORT, PEER_ADDRESS
from perf.relay.turn import Allocation, TurnError
from perf.search import LOSS_FREE, Trial, highest_without_loss

if TYPE_CHECKING:
    import socket

    from perf.relay.contenders import Contender
    from perf.relay.lanes import Lanes

SINGLES, TRAINS = "singles", "trains"
"""Each datagram sent on its own; 32 of one channel sent as one GSO train, as a tunnel under load sends them."""
TO_PEER, TO_CLIENT = "client→peer", "peer→client"
TRAIN = 32
FIRST_CHANNEL = 0x4000
MAGIC = b"\x04\xfe\xed\x00"
LAYOUTS = {1: (1, 1, 1), 100: (100, 1, 10), 10_000: (100, 100, 100)}
"""Channels in all: (clients, channels of each, peers)."""
_CALL = 32
"""Datagrams or trains of one socket that leave in one call of the generator."""
WINDOW = {SINGLES: 512, TRAINS: 64 * TRAIN}
STEADY = 100_000
"""Datagrams per second offered to every relay alike, less than any takes without loss: what a relay costs that is not full."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of traffic."""

    shape: str
    direction: str
    channels: int
    payload: int

    @property
    def size(self) -> int:
        """Bytes of a datagram where it is received."""
        return self.payload + (4 if self.direction == TO_CLIENT else 0)


@dataclass(slots=True)
class Channels:
    """Bound channels of one relay, with the sockets at both ends."""

    contender: Contender
    clients: list[Allocation]
    peers: list[socket.socket]

    @classmethod
    def bind(cls, contender: Contender, lanes: Lanes, number: int) -> Channels:
        """Makes `number` channels as LAYOUTS has them. Raises TurnError."""
        client_count, each, peer_count = LAYOUTS[number]
        peers = [lanes.peer_socket(FIRST_PEER_PORT + 1000 * (contender.port % 10) + place) for place in range(peer_count)]
        endpoints = [Endpoint.from_text(PEER_ADDRESS, peer.getsockname()[1]) for peer in peers]
        clients = []
        for place in range(client_count):
            client = Allocation(contender.connect(), *contender.credentials(place))
            client.allocate()
            client.bind({FIRST_CHANNEL + channel: endpoints[(place + channel) % peer_count] for channel in range(each)})
            clients.append(client)
        return cls(contender, clients, peers)

    def close(self) -> None:
        for client in self.clients:
            client.free()
            client.sock.close()
        for peer in self.peers:
            peer.close()

    def plan(self, cell: Cell) -> load.Plan:
        """Returns one turn over all channels."""
        plan = load.Plan()
        payload = MAGIC + bytes(os.urandom(cell.payload - len(MAGIC)))
        repeat = TRAIN if cell.shape == TRAINS else 1
        if cell.direction == TO_PEER:
            for client, number in self._in_turns():
                datagram = number.to_bytes(2, "big") + cell.payload.to_bytes(2, "big") + payload
                plan.add(client.sock.fileno(), datagram * repeat, len(datagram))
        else:
            for peer in self.peers:
                port = peer.getsockname()[1]
                for client in self.clients:
                    if any(endpoint.port == port for endpoint in client.channels.values()):
                        plan.add(peer.fileno(), payload * repeat, cell.payload, client.relayed.ip, client.relayed.port)
        plan.seal(_CALL)
        return plan

    def sinks(self, cell: Cell) -> load.Sinks:
        """Returns where the datagrams of a cell arrive."""
        socks = self.peers if cell.direction == TO_PEER else [client.sock for client in self.clients]
        sinks = load.Sinks([sock.fileno() for sock in socks])
        sinks.expect(cell.size, MAGIC, cell.size - cell.payload)
        return sinks

    def _in_turns(self) -> list[tuple[Allocation, int]]:
        """All channels: a call's worth of one client after that of another."""
        found = []
        most = max(len(client.channels) for client in self.clients)
        for start in range(0, most, _CALL):
            for client in self.clients:
                found += [(client, number) for number in list(client.channels)[start : start + _CALL]]
        return found


def measure(channels: Channels, cell: Cell, seconds: float, *, search: bool = True) -> dict[str, float]:
    """Measures one relay in one cell.

    Returns: `rate`, datagrams per second with as many on their way as the relay takes without loss; `per_cpu`, datagrams per CPU
             second meanwhile; `cores`, CPU seconds per second; `loss_free`, the highest rate offered with under 0.1 % lost;
             `steady_per_cpu`, datagrams per CPU second at STEADY, and `steady_lost` of them; `wrong`, datagrams that did not arrive
             as they were sent.
    Raises:  TurnError when those are more than a few late ones of the cell before: then nothing here means what it says.
    """
    plan, sinks, window = channels.plan(cell), channels.sinks(cell), WINDOW[cell.shape]
    sinks.drain(0.01)
    load.run(plan, sinks, min(0.1, seconds / 4), window=window)
    sinks.drain(0.01)
    done, cpu = _run(channels, plan, sinks, seconds, window=window)
    if done["wrong"] > done["received"] * LOSS_FREE:
        raise TurnError(
            f"{channels.contender.name} changed {done['wrong']} of {done['received']} datagrams on their way in {cell}."
        )
    rate = done["received"] / done["elapsed_s"]
    steady, steady_cpu = _run(channels, plan, sinks, seconds, rate=STEADY)
    figures = {
        "rate": rate, "per_cpu": done["received"] / max(cpu, 0.005), "cores": cpu / done["elapsed_s"], "wrong": done["wrong"],
        "lost": 1 - done["received"] / max(done["sent"], 1), "steady_per_cpu": steady["received"] / max(steady_cpu, 0.001),
        "steady_lost": 1 - steady["received"] / max(steady["sent"], 1),
    }  # fmt: skip
    if search:
        figures["loss_free"] = loss_free(plan, sinks, rate, seconds / 3)
    return figures


def _run(
    channels: Channels, plan: load.Plan, sinks: load.Sinks, seconds: float, *, rate: float = 0, window: int = 0
) -> tuple[dict[str, float], float]:
    """Runs a plan at a rate or with a window. Returns what came of it, and the relay's CPU seconds meanwhile."""
    cpu = channels.contender.cpu_seconds()
    done = load.run(plan, sinks, seconds, rate=rate, window=window)
    cpu = channels.contender.cpu_seconds() - cpu
    sinks.drain(0.01)
    return done, cpu


def loss_free(plan: load.Plan, sinks: load.Sinks, guess: float, seconds: float) -> float:
    """Returns the highest rate of which less than 0.1 % is lost or late."""

    def attempt(rate: float) -> Trial:
        done = load.run(plan, sinks, seconds, rate=rate)
        sinks.drain(0.005)
        return Trial(done["sent"] / done["elapsed_s"], int(done["sent"]), int(done["received"]))

    return highest_without_loss(attempt, guess)
