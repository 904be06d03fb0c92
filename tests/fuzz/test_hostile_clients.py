"""A relay process among clients that hold credentials and mean no good. It keeps its head, its memory and its honest clients."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from pathlib import Path

from firezone.base.net import Endpoint
from firezone.wire import stun
from firezone.wire.stun import Attribute, Message, MessageClass, Method, Value
from tests.fuzz.mutations import spoiled
from tests.harness.relay_program import DEADLINE_S, SECRET, RelayProgram, SocketTurnClient

DURATION_S = 4.0
MOST_GROWTH_KIB = 40 << 10
"""The rings and tables that are filled for the first time; what leaked per datagram would be many times more."""
METHODS = (Method.ALLOCATE, Method.REFRESH, Method.CHANNEL_BIND, Method.CREATE_PERMISSION, Method.SEND, Method.BINDING)


class HostileClient(SocketTurnClient):
    """Sends what nobody should."""

    def __init__(self, relay: RelayProgram, number: int) -> None:
        super().__init__(relay.port, username=f"1999999999:hostile-{number}")
        self._relay = relay
        self._draw = random.Random(number)
        self._former = [b"\x00\x01"]
        self.allocate()
        self.socket.setblocking(False)

    def act(self) -> None:
        """Sends one datagram, most of them from a socket that has credentials and an allocation."""
        draw = self._draw
        match draw.randrange(10):
            case 0 | 1 | 2 | 3:
                self._former = [*self._former[-100:], self._request()]
                self._send(self._former[-1])
            case 4 | 5:
                self._send(spoiled(draw.choice(self._former), draw))
            case 6:
                number, size = draw.choice((0x4000, 0x4001, 0x4FFF, 0x5000, 0x7FFF)), draw.choice((0, 1, 10, 0xFFFF))
                self._send(number.to_bytes(2, "big") + size.to_bytes(2, "big") + draw.randbytes(draw.choice((0, 9, 10, 13, 1200))))
            case 7:
                body = b"\x7f\xff\x00\x00" * draw.choice((1, 100, 10_000))
                self._send(b"\x00\x03" + len(body).to_bytes(2, "big") + stun.MAGIC_COOKIE_BYTES + bytes(12) + body)
            case 8:  # one whose socket is closed before the answer comes: an ICMP error for the relay
                with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as other:
                    other.sendto(draw.choice(self._former), ("127.0.0.1", self._relay.port))
            case _:
                with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as peer:
                    peer.sendto(draw.randbytes(draw.choice((0, 1, 1400, 40_000))), ("127.0.0.1", draw.randrange(20_000, 21_000)))
        self._learn()

    def _send(self, datagram: bytes) -> None:
        with contextlib.suppress(OSError):
            self.socket.send(datagram)

    def _learn(self) -> None:
        with contextlib.suppress(OSError):
            while answer := self.socket.recv(65536):
                if stun.is_stun(answer):
                    self.nonce = stun.decode(answer).message.get(Attribute.NONCE) or self.nonce

    def _request(self) -> bytes:
        draw = self._draw
        method = draw.choice(METHODS)
        attributes: list[tuple[int, Value]] = [(Attribute.REQUESTED_TRANSPORT, 17)] if method is Method.ALLOCATE else []
        values = {
            Attribute.LIFETIME: draw.choice((0, 1, 600, 2**32 - 1)),
            Attribute.CHANNEL_NUMBER: draw.choice((0x3FFF, 0x4000, 0x4001, 0x4FFF, 0x7FFF, 0x8000)),
            Attribute.XOR_PEER_ADDRESS: self._peer(),
            Attribute.DATA: draw.randbytes(draw.choice((0, 1, 1200, 60_000))) if method is Method.SEND else b"",
            Attribute.ADDITIONAL_ADDRESS_FAMILY: 2,
            Attribute.REQUESTED_TRANSPORT: 6,
        }
        attributes += draw.sample(list(values.items()), draw.randrange(len(values)))
        message_class = MessageClass.INDICATION if method is Method.SEND else draw.choice((MessageClass.REQUEST, *MessageClass))
        credentials = [(Attribute.USERNAME, self.username), (Attribute.REALM, "firezone"), (Attribute.NONCE, self.nonce or "")]
        credentials = credentials if draw.random() < 0.9 else draw.sample(credentials, 2)
        key = self.key if draw.random() < 0.9 else draw.randbytes(16)
        return stun.encode(Message(message_class, method, draw.randbytes(12), (*attributes, *credentials)), key=key)

    def _peer(self) -> Endpoint:
        """On this host alone: other clients' allocations, the relay itself, nobody, and addresses that are none."""
        host = self._draw.choice(("127.0.0.1", "127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::ffff:127.0.0.1"))
        return Endpoint.from_text(host, self._draw.choice((0, 9, self._relay.port, self._draw.randrange(20_000, 21_000))))


def test_hostile_clients_do_no_harm() -> None:
    relay = RelayProgram(variables={"FIREZONE_RELAY_SECRET": SECRET})
    relay.wait_until_up()
    lines: list[str] = []
    assert relay.process.stdout is not None
    reader = threading.Thread(target=lines.extend, args=(relay.process.stdout,), daemon=True)
    reader.start()
    clients = [HostileClient(relay, number) for number in range(4)]
    before = resident_kib(relay.process.pid)
    deadline = time.monotonic() + DURATION_S
    count = 0
    while time.monotonic() < deadline:
        for client in clients:
            client.act()
        count += 1
    assert count > 500
    assert relay.process.poll() is None
    assert resident_kib(relay.process.pid) - before < MOST_GROWTH_KIB
    time.sleep(0.3)  # What strangers may ask per second is used up for a moment.
    honest = SocketTurnClient(relay.port, username="1999999999:honest")
    assert honest.ask(Method.BINDING).get(Attribute.XOR_MAPPED_ADDRESS) == honest.endpoint
    honest.allocate()
    used, ticks = cpu_ticks(relay.process.pid), relay.metrics()["counters"]["ticks"]
    time.sleep(0.5)
    assert relay.metrics()["counters"]["ticks"] - ticks < 10, "it sleeps when they stop"
    assert cpu_ticks(relay.process.pid) - used < os.sysconf("SC_CLK_TCK") / 10
    relay.process.terminate()
    assert relay.process.wait(DEADLINE_S) == 0
    reader.join(DEADLINE_S)
    assert [line for line in lines if " ERROR " in line or "Traceback" in line] == []


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def cpu_ticks(pid: int) -> int:
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
