"""`python -m tests.harness.dns_life METHOD [SERVERS]`: takes the machine's DNS and gives it back, for ever; each step is one line.

With `hold` as a third argument it takes it once and keeps it, telling the system resolvers whenever they change.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

from firezone.io.dns_control import make_dns_control
from tests.harness.dns_host import LINK


async def live(method: str, servers: list[str], *, holds: bool) -> None:
    control = make_dns_control(method)
    await control.start()
    if holds:
        control.on_change(lambda: print("resolvers", *control.system_resolvers(), flush=True))
        await control.apply(servers, "corp.example", LINK)
        print("applied", flush=True)
        await asyncio.sleep(3600)
    print("ready", flush=True)
    while True:
        await control.apply(servers, "corp.example", LINK)
        await control.apply([*servers, "100.100.111.9"], None, LINK)
        await control.revert()
        await control.start()


if __name__ == "__main__":
    uvloop.run(live(sys.argv[1], sys.argv[2].split(","), holds=sys.argv[3:] == ["hold"]))
