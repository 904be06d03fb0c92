"""A plain WireGuard program on the whole data path: engine, compiled stages, TUN with offloads, batched UDP.

    python -m tests.interop.wireguard_engine '{"private": "<hex>", …}'

It takes the options of `wireguard_peer.py` and says the same lines, so a test runs either.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import signal
import sys
from collections import Counter

import structlog
import uvloop

from firezone.base.errors import RemoteError
from firezone.base.net import Endpoint
from firezone.base.timing import seconds
from firezone.datapath.tables import Tables
from firezone.io.clock import BootClock
from firezone.io.deadline import DeadlineTimer
from firezone.io.entropy import SystemRng
from firezone.io.tun_device import TunDevice
from firezone.io.udp_sockets import UdpSockets
from firezone.kernels.types import Reason
from firezone.loop.engine import Engine
from firezone.loop.errors import TunnelError
from firezone.loop.tunnel import Tunnel
from firezone.proto.noise.handshake import StaticKeys
from firezone.proto.noise.peer import Established, Expired
from firezone.proto.noise.timers import PeerTiming
from tests.harness.static_peers import PeerConfig, StaticPeers
from tests.interop.wireguard_peer import Options, say

EVERYTHING = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


class Program:
    """The engine between a real device and real sockets, with one static peer."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._refused: Counter[str] = Counter()
        self._clock = BootClock()
        self._tables = Tables()
        endpoint = None if options.endpoint is None else Endpoint.from_text(options.endpoint[0], options.endpoint[1])
        config = PeerConfig(
            public=bytes.fromhex(options.remote_public),
            allowed=EVERYTHING,
            preshared=bytes.fromhex(options.preshared) if options.preshared else None,
            endpoint=endpoint,
        )
        self._machine = StaticPeers(
            StaticKeys.from_private(bytes.fromhex(options.private)),
            [config],
            store=self._tables.sessions,
            rng=SystemRng(),
            now=self._clock.now(),
            utc=self._clock.utc(),
            timing=PeerTiming(**{name: seconds(value) for name, value in options.timing.items()}),
        )

    async def run(self) -> None:
        """Works until SIGTERM."""
        tun = TunDevice.open(self._options.tun)
        sockets = UdpSockets(port=self._options.port)
        engine = Engine(
            machine=self._machine,
            tables=self._tables,
            clock=self._clock,
            tun_source=tun,
            tun_sink=tun,
            udp_sources=(sockets,),
            udp_sink=sockets,
        )
        tunnel = Tunnel(engine, DeadlineTimer(), on_event=self._on_event, on_error=self._on_error)
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        tunnel.start()
        say("ready")
        if self._options.initiate:
            self._machine.initiate(self._clock.now())
            tunnel.touch()
        await stopped.wait()
        tunnel.stop()
        say(
            "stopped",
            refused=sum(self._refused.values()),
            cookies=self._machine.cookies_received,
            cookie_demands=self._machine.cookies_demanded,
            rows={reason.name: int(engine.reasons[reason]) for reason in Reason if engine.reasons[reason]},
            udp=sockets.counters(),
        )
        sockets.close()
        tun.close()

    def _on_event(self, event: object) -> None:
        match event:
            case (_, Established() as established):
                say("established", is_initiator=established.is_initiator, is_first=established.is_first)
            case (_, Expired() as expired):
                say("expired", reason=expired.reason)

    def _on_error(self, errors: TunnelError) -> None:
        for error in errors.exceptions:
            if isinstance(error, RemoteError):
                self._refused[str(error)] += 1
                if self._refused[str(error)] == 1:
                    say("refused", reason=str(error))
            elif not isinstance(error, OSError):
                raise error
            else:
                say("system error", reason=str(error))


if __name__ == "__main__":
    # Standard output is for the test; logs go where a failing test shows them.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    uvloop.run(Program(Options(**json.loads(sys.argv[1]))).run())
