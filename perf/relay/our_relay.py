"""Our relay on the port, public address and with the secret that the arguments name."""

from __future__ import annotations

import asyncio
import ipaddress
import sys

from firezone.base.secret import SecretText
from firezone.loop.relay import Relay, RelayConfig


async def serve(port: int, public: str, secret: str) -> None:
    stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    config = RelayConfig(
        secret=SecretText(secret),
        public_ip4=ipaddress.IPv4Address(public).packed,
        listen_port=port,
        lowest_port=49152,
        highest_port=57343,
    )
    relay = Relay(config, on_fatal=stopped.set_exception)
    relay.start()
    print("listening", flush=True)
    await stopped


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
