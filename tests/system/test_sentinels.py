"""Name servers on sentinel addresses of a real TUN device, also where another program holds port 53 of all addresses."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

from tests.conftest import LACKS
from tests.harness.namespaces import Namespace, stop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root

SENTINELS = ("100.100.111.1", "fd00:2021:1111:8000:100:100:111:0")
NEXT = ("100.100.111.2", "fd00:2021:1111:8000:100:100:111:1")
SERVER = f"""
import asyncio, signal, subprocess, sys
import dns.message, dns.rrset
from firezone.io.dns_server import DnsServer
from firezone.io.netlink import Netlink
from firezone.io.tun_device import TunDevice
from firezone.base.net import PROXY_V4, SENTINEL_V4, SENTINEL_V6

SENTINELS, NEXT = {SENTINELS!r}, {NEXT!r}

def answer(sentinel, question, is_tcp, reply):
    query = dns.message.from_wire(question)
    response = dns.message.make_response(query)
    response.answer.append(dns.rrset.from_text(query.question[0].name, 1, "IN", "TXT", sentinel + ("/tcp" if is_tcp else "/udp")))
    reply(response.to_wire())
    return True

async def main():
    device = TunDevice.open("tun-firezone")
    netlink = Netlink("tun-firezone")
    await netlink.start()
    server = DnsServer(answer)
    await asyncio.to_thread(server.recover)
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    await netlink.set_addresses(["100.64.0.5", "fd00:2021:1111::5"], SENTINELS)
    await netlink.set_routes([PROXY_V4, SENTINEL_V4, SENTINEL_V6])
    print(*await server.listen(SENTINELS), flush=True)
    changed = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, changed.set)
    change = asyncio.create_task(changed.wait())
    end = asyncio.create_task(over.wait())
    await asyncio.wait([change, end], return_when=asyncio.FIRST_COMPLETED)
    if changed.is_set():
        # Our own address changes too: the new one comes after the sentinels in the kernel's list.
        await netlink.set_addresses(["100.64.0.6", "fd00:2021:1111::6"], NEXT)
        print(*await server.listen(NEXT), flush=True)
    await over.wait()
    await server.close()
    await netlink.stop()
    device.close()

asyncio.run(main())
"""


@pytest.fixture
def here() -> Iterator[Namespace]:
    with Namespace() as here:
        yield here


class Server:
    """The name servers, in a process of their own."""

    def __init__(self, here: Namespace) -> None:
        self._here = here
        self.process = here.spawn(sys.executable, "-c", textwrap.dedent(SERVER), stdout=subprocess.PIPE)
        self.listening = self.said()

    def said(self) -> list[str]:
        assert self.process.stdout is not None
        while (words := self.process.stdout.readline().split()) and words[0][0].isdigit() and "-" in words[0]:
            pass  # A line of the log.
        return words


def dig(here: Namespace, server: str, *more: str) -> str:
    found = here.run("dig", "+short", "+tries=1", "+time=2", *more, f"@{server}", "example.com", "TXT", check=False)
    return found.stdout.strip().strip('"')


def redirects(here: Namespace) -> str:
    return here.run("nft", "list", "tables").stdout


def source_to(here: Namespace, destination: str) -> str:
    words = here.run("ip", "route", "get", destination).stdout.split()
    return words[words.index("src") + 1]


def test_programs_are_answered_over_both_families_and_transports(here: Namespace) -> None:
    server = Server(here)
    assert server.listening == [*SENTINELS]
    for sentinel in SENTINELS:
        assert dig(here, sentinel) == f"{sentinel}/udp"
        assert dig(here, sentinel, "+tcp") == f"{sentinel}/tcp"
    assert redirects(here) == ""
    stop(server.process)


def test_a_sentinel_is_never_the_source_of_what_leaves(here: Namespace) -> None:
    server = Server(here)
    assert source_to(here, "100.96.0.1") == "100.64.0.5"
    assert source_to(here, "fd00:2021:1111:8000:100:100:111:77") == "fd00:2021:1111::5"
    server.process.send_signal(10)
    assert server.said() == [*NEXT]
    assert source_to(here, "100.96.0.1") == "100.64.0.6"
    assert source_to(here, "fd00:2021:1111:8000:100:100:111:77") == "fd00:2021:1111::6"
    assert dig(here, NEXT[0]) == f"{NEXT[0]}/udp"
    assert "timed out" in dig(here, SENTINELS[0]) or dig(here, SENTINELS[0]) == ""
    shown = here.run("ip", "address", "show", "tun-firezone").stdout
    assert not any(f"{gone}/" in shown for gone in SENTINELS)
    stop(server.process)


def wildcard(name: str, here: Namespace, directory: Path) -> subprocess.Popen[str]:
    """Starts a name server on port 53 of all addresses."""
    if shutil.which(name) is None:
        pytest.skip(f"{LACKS} {name}")
    if name == "dnsmasq":
        command = ["dnsmasq", "--no-daemon", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--user=root",
                   "--txt-record=example.com,theirs"]  # fmt: skip
    else:
        config = directory / "unbound.conf"
        config.write_text(
            f'server:\n interface: 0.0.0.0\n interface: ::0\n do-daemonize: no\n username: ""\n chroot: ""\n'
            f' pidfile: "{directory}/pid"\n'
            " access-control: 0.0.0.0/0 allow\n access-control: ::/0 allow\n use-syslog: no\n"
            ' local-zone: "example.com" static\n local-data: "example.com TXT theirs"\nremote-control:\n control-enable: no\n'
        )
        command = ["unbound", "-d", "-c", str(config)]
    process = here.spawn(*command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while dig(here, "127.0.0.1") != "theirs":
        assert time.monotonic() < deadline, f"{name} does not answer"
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("name", ["dnsmasq", "unbound"])
def test_a_listener_on_all_addresses_does_not_stop_us_nor_we_it(name: str, here: Namespace, tmp_path: Path) -> None:
    if shutil.which("nft") is None:
        pytest.skip(f"{LACKS} nft")
    wildcard(name, here, tmp_path)
    server = Server(here)
    assert server.listening == [*SENTINELS]
    for sentinel in SENTINELS:
        for _ in range(3):
            assert dig(here, sentinel) == f"{sentinel}/udp"
            assert dig(here, sentinel, "+tcp") == f"{sentinel}/tcp"
    assert dig(here, "127.0.0.1") == "theirs"
    assert "firezone_client" in redirects(here)
    server.process.send_signal(10)  # Other sentinels take the redirection over.
    assert server.said() == [*NEXT]
    assert dig(here, NEXT[1], "+tcp") == f"{NEXT[1]}/tcp"
    assert SENTINELS[0] not in here.run("nft", "list", "ruleset").stdout
    stop(server.process)
    assert redirects(here) == ""


def test_the_redirection_of_a_killed_client_goes_with_the_next_start(here: Namespace, tmp_path: Path) -> None:
    if shutil.which("nft") is None:
        pytest.skip(f"{LACKS} nft")
    other = wildcard("dnsmasq", here, tmp_path)
    server = Server(here)
    server.process.kill()
    server.process.wait()
    assert "firezone_client" in redirects(here)
    stop(other)
    server = Server(here)
    assert redirects(here) == ""
    assert dig(here, SENTINELS[0]) == f"{SENTINELS[0]}/udp"
    stop(server.process)
