"""Many clients of ours in one process, with real sockets and logins and with TUN devices in memory, that connect when told to.

    python -m perf.crowd '{"url": "ws://…", "token": "…", "target": "10.20.0.2", "addresses": ["198.51.100.100", "198.51.100.101"]}'

There is a client for each address. It says `ready` once all have logged in. A line on stdin makes each send an echo request to the
target, some at a time, which needs access from the portal, connectivity checks and a handshake; it ends with the seconds until
the last was answered.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvloop

from firezone.base.errors import FirezoneError
from firezone.base.log import set_up_logging
from firezone.base.secret import SecretText
from firezone.lab.traffic import ICMP, build
from firezone.loop.client import ClientProgram
from firezone.loop.config import ClientConfig
from firezone.loop.ends import memory_ends

if TYPE_CHECKING:
    from firezone.loop.memory import MemoryTun

AT_ONCE = 8
"""Clients that connect side by side."""
LOGIN_S, ANSWER_S, REPEAT_S, POLL_S = 60.0, 20.0, 1.0, 0.001


@dataclass(slots=True)
class Member:
    """One client and its device."""

    program: ClientProgram
    tun: MemoryTun
    number: int

    @classmethod
    def make(cls, order: dict[str, Any], number: int, address: str) -> Member:
        ends, tun = memory_ends({4: address})
        name = f"perf-crowd-{number}"
        config = ClientConfig(api_url=order["url"], token=SecretText(order["token"]), device_id=name, name=name)
        return cls(ClientProgram(config, ends, addresses=[address], owns_process=False), tun, number)

    async def connect(self, target: str) -> None:
        """Asks for an echo, again and again, until it comes. Raises FirezoneError when it does not."""
        own = self.program.state.own_addresses[0]
        request = build(own, ipaddress.ip_address(target), ICMP, self.number, b"")
        deadline, again = time.monotonic() + ANSWER_S, 0.0
        while not self.tun.receive():
            now = time.monotonic()
            if now > deadline:
                raise FirezoneError(f"Client {self.number} was not answered within {ANSWER_S:.0f} s.")
            if now >= again:
                self.tun.send(request)
                self.program.host.tunnel.wake()
                again = now + REPEAT_S
            await asyncio.sleep(POLL_S)


async def run(order: dict[str, Any]) -> None:
    members = [Member.make(order, number, address) for number, address in enumerate(order["addresses"])]
    tasks = [asyncio.create_task(member.program.run()) for member in members]
    try:
        async with asyncio.timeout(LOGIN_S):
            for member in members:
                await member.program.ready.wait()
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        start = time.monotonic()
        turns = asyncio.Semaphore(AT_ONCE)

        async def connect(member: Member) -> None:
            async with turns:
                await member.connect(order["target"])

        await asyncio.gather(*(connect(member) for member in members))
        print(json.dumps({"seconds": time.monotonic() - start}), flush=True)
    finally:
        for member in members:
            member.program.stop()
        await asyncio.wait(tasks, timeout=5)


if __name__ == "__main__":
    set_up_logging("error", file_base="crowd", stream=sys.stderr)
    uvloop.run(run(json.loads(sys.argv[1])))
