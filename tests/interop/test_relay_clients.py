"""Our relay, standing alone, with TURN clients nobody here wrote: coturn's `turnutils_uclient` and aioice."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from firezone.base.secret import SecretText
from firezone.proto.relay.auth import Username
from tests.harness.relay_program import SECRET, RelayProgram

pytestmark = pytest.mark.interop

USERNAME = Username("1999999999:somebody", 1999999999, "somebody")
PASSWORD = USERNAME.password(SecretText(SECRET))


@pytest.fixture(scope="module")
def relay() -> Iterator[RelayProgram]:
    program = RelayProgram(("--public-ip6-addr", "::1"), variables={"FIREZONE_RELAY_SECRET": SECRET})
    program.wait_until_up()
    yield program
    status, _, err = program.end()
    assert (status, err) == (0, "")


RUNS = {
    "channels": ("127.0.0.1", []),
    "channels-over-ipv6": ("::1", []),
    "padded": ("127.0.0.1", ["-D"]),
    "indications": ("127.0.0.1", ["-s"]),
    "ipv6": ("127.0.0.1", ["-x"]),
    "indications-ipv6-over-ipv6": ("::1", ["-s", "-x"]),
    "dual": ("127.0.0.1", ["-Z"]),
    "extra-requests": ("127.0.0.1", ["-G", "-g"]),
}
"""Server address and options of each run of coturn's client."""


@pytest.fixture(scope="module")
def runs(relay: RelayProgram) -> dict[str, subprocess.Popen[str]]:
    """All of them at once: each spends five seconds waiting for nothing."""
    account = ["-p", str(relay.port), "-u", USERNAME.text, "-w", PASSWORD]
    return {
        name: subprocess.Popen(
            ["turnutils_uclient", *account, "-y", "-c", "-n", "10", "-m", "4", "-z", "5", *options, server],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for name, (server, options) in RUNS.items()
    }  # fmt: skip


@pytest.mark.skipif(shutil.which("turnutils_uclient") is None, reason="coturn is not installed")
@pytest.mark.parametrize("name", RUNS)
def test_coturns_client_loses_nothing(runs: dict[str, subprocess.Popen[str]], name: str) -> None:
    out, _ = runs[name].communicate(timeout=60)
    totals = re.findall(r"tot_send_msgs=(\d+), tot_recv_msgs=(\d+)", out)
    assert totals, out
    assert totals[-1] == ("40", "40"), out[-2000:]
    assert re.search(r"Total lost packets 0 \(0\.0+%\)", out)


class Collector(asyncio.DatagramProtocol):
    """Keeps what arrives."""

    def __init__(self) -> None:
        self.arrived: asyncio.Queue[tuple[bytes, tuple[str, int]]] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.arrived.put_nowait((data, addr))


async def test_aioice_exchanges_data_over_it(relay: RelayProgram) -> None:
    turn = pytest.importorskip("aioice.turn")
    async with asyncio.timeout(20):
        transport, ours = await turn.create_turn_endpoint(
            Collector, server_addr=("127.0.0.1", relay.port), username=USERNAME.text, password=PASSWORD
        )
        loop = asyncio.get_running_loop()
        peer_transport, peer = await loop.create_datagram_endpoint(Collector, local_addr=("127.0.0.1", 0))
        peer_address = peer_transport.get_extra_info("sockname")
        relayed = transport.get_extra_info("sockname")
        assert relayed[0] == "127.0.0.1"
        assert transport.get_extra_info("related_address")[0] == "127.0.0.1"
        for number in range(20):
            transport.sendto(b"ping %d" % number, peer_address)
            assert await peer.arrived.get() == (b"ping %d" % number, relayed)
            peer_transport.sendto(b"pong %d" % number, relayed)
            assert await ours.arrived.get() == (b"pong %d" % number, peer_address)
        peer_transport.close()
        transport.close()
