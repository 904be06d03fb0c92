"""The lives of client and gateway as processes: start, readiness, signals, refusals, and what they leave behind.

namespace: 127.0.0.1 portal (scripted by the test) ── program ── tun-firezone
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import LACKS
from tests.harness.namespaces import Namespace
from tests.harness.scripted_portal import ScriptedPortal, until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.root

TOKEN = "s3cret-token"
DEADLINE_S = 15.0
CLIENT_INTERFACE = {"ipv4": "100.64.0.9", "ipv6": "fd00:2021:1111::9"}
GATEWAY_INIT: dict[str, Any] = {
    "interface": {"ipv4": "100.64.0.2", "ipv6": "fd00:2021:1111::2"},
    "config": {"ipv4_masquerade_enabled": True, "ipv6_masquerade_enabled": True},
    "relays": [],
    "authorizations": [],
}
BY_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def resource(number: int, network: str) -> dict[str, Any]:
    return {
        "type": "cidr",
        "id": f"00000000-0000-4000-8000-{number:012d}",
        "name": f"r{number}",
        "address": network,
        "gateway_groups": [{"id": "11111111-0000-4000-8000-000000000000", "name": "site"}],
        "filters": [],
    }


def client_init(*networks: str) -> dict[str, Any]:
    resources = [resource(number, network) for number, network in enumerate(networks)]
    return {"interface": CLIENT_INTERFACE, "resources": resources, "relays": []}


class Program:
    """A running client or gateway, and everything it has said."""

    def __init__(self, namespace: Namespace, directory: Path, name: str, *arguments: str, prefix: tuple[str, ...] = (),
                 **variables: str) -> None:  # fmt: skip
        self.log = directory / f"{name}-{time.monotonic_ns()}.log"
        command = ["sh", "-c", 'exec "$@" 2>&1', "sh", *prefix, sys.executable, "-m", f"firezone.{name}", *arguments]
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("FIREZONE")},
            "FIREZONE_TOKEN": TOKEN, "FIREZONE_ID": name, "RUST_LOG": "debug", "HEALTH_CHECK_ADDR": "127.0.0.1:8080",
            "FIREZONE_DNS_CONTROL": "disabled", **variables,
        }  # fmt: skip
        with self.log.open("w") as output:
            self.process: subprocess.Popen[str] = namespace.spawn(*command, env=environment, stdout=output)

    def text(self) -> str:
        return self.log.read_text()

    async def until(self, part: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while part not in self.text():
                assert self.process.poll() is None, self.text()
                await asyncio.sleep(0.02)

    async def ended(self, timeout_s: float = DEADLINE_S) -> int:
        """Waits for the end and returns the exit status."""
        async with asyncio.timeout(timeout_s):
            while (status := self.process.poll()) is None:  # noqa: ASYNC110 - a process of the namespace's, not of the loop's
                await asyncio.sleep(0.01)
        return status


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace() as made:
        yield made


@pytest.fixture
async def portal(namespace: Namespace) -> AsyncIterator[ScriptedPortal]:
    portal = ScriptedPortal(client_init("10.1.0.0/16"))
    await portal.start(namespace)
    yield portal
    await portal.stop()


@pytest.fixture
def url(portal: ScriptedPortal) -> str:
    return f"ws://127.0.0.1:{portal.port}"


@pytest.fixture
def nobody(namespace: Namespace) -> tuple[str, ...]:
    """What runs a command as an ordinary user."""
    if namespace.run(*BY_NOBODY, sys.executable, "-c", "import firezone.client", check=False).returncode != 0:
        pytest.skip(f"{LACKS} an installation that ordinary users can read")
    return BY_NOBODY


def has_device(namespace: Namespace) -> bool:
    return "tun-firezone" in namespace.run("ip", "link").stdout


def routes(namespace: Namespace) -> list[str]:
    lines = namespace.run("ip", "route", "show", "table", str(0x2021FD00)).stdout.splitlines()
    return [line.split()[0] for line in lines]


def rules(namespace: Namespace) -> int:
    return namespace.run("ip", "rule").stdout.count("fwmark")


# client


async def test_readiness_is_said_once_when_addresses_and_routes_are_in_place(
    namespace: Namespace, portal: ScriptedPortal, url: str, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        program = Program(namespace, tmp_path, "client", FIREZONE_API_URL=url, NOTIFY_SOCKET=str(tmp_path / "notify"))
        async with asyncio.timeout(DEADLINE_S):
            assert await asyncio.get_running_loop().sock_recv(manager, 100) == b"READY=1"
        addresses = namespace.run("ip", "address", "show", "dev", "tun-firezone").stdout
        assert "inet 100.64.0.9/32" in addresses
        assert "inet6 fd00:2021:1111::9/128" in addresses
        assert "mtu 1280" in addresses
        assert {"10.1.0.0/16", "100.64.0.0/11", "100.96.0.0/11", "100.100.111.0/24"} == set(routes(namespace))

        await portal.push("init", client_init("10.1.0.0/16", "10.2.0.0/16"))
        await until(lambda: "10.2.0.0/16" in routes(namespace))
        await asyncio.sleep(0.1)
        with pytest.raises(BlockingIOError):
            manager.recv(100)
    assert program.process.poll() is None


async def test_exit_ends_with_success_after_the_first_configuration(namespace: Namespace, url: str, tmp_path: Path) -> None:
    program = Program(namespace, tmp_path, "client", "--exit", FIREZONE_API_URL=url)
    assert await program.ended() == 0
    assert "tunnel configured" in program.text()
    assert not has_device(namespace)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_client_within_two_seconds_and_nothing_is_left(
    namespace: Namespace, url: str, tmp_path: Path, number: signal.Signals
) -> None:
    program = Program(namespace, tmp_path, "client", FIREZONE_API_URL=url)
    await program.until("tunnel configured")
    assert rules(namespace) == 3
    program.process.send_signal(number)
    assert await program.ended(2.0) == 0, program.text()
    assert not has_device(namespace)
    assert rules(namespace) == 0
    assert "Traceback" not in program.text()


async def test_sighup_logs_in_anew_with_a_new_key_every_time(
    namespace: Namespace, portal: ScriptedPortal, url: str, tmp_path: Path
) -> None:
    program = Program(namespace, tmp_path, "client", FIREZONE_API_URL=url)
    await program.until("tunnel configured")
    for turn in range(2, 5):
        program.process.send_signal(signal.SIGHUP)
        await until(lambda turn=turn: len(portal.logins) == turn)
    assert len({login["public_key"] for login in portal.logins}) == 4
    assert {login["external_id"] for login in portal.logins} == {"client"}
    assert program.process.poll() is None
    assert "Traceback" not in program.text()


@pytest.mark.parametrize(
    "loss",
    [
        f"ip route del 100.64.0.0/11 table {0x2021FD00}",
        f"ip route flush table {0x2021FD00}; ip -6 route flush table {0x2021FD00}",
        "ip link set tun-firezone down; ip link set tun-firezone up",
        "ip link set tun-firezone down",
    ],
    ids=["one route", "all routes", "down and up", "down"],
)
async def test_starting_over_sets_up_what_the_device_has_lost(
    namespace: Namespace, portal: ScriptedPortal, url: str, tmp_path: Path, loss: str
) -> None:
    program = Program(namespace, tmp_path, "client", FIREZONE_API_URL=url)
    await program.until("tunnel configured")
    before = set_up(namespace)
    assert all(before)
    namespace.run("sh", "-c", loss)
    assert set_up(namespace) != before
    program.process.send_signal(signal.SIGHUP)
    await until(lambda: set_up(namespace) == before)
    assert program.text().count("tunnel configured") == 1
    assert "WARN" not in program.text()


def set_up(namespace: Namespace) -> tuple[list[str], list[str], list[str]]:
    """Returns the routes to the device, IPv4 and IPv6, and its addresses."""
    sixes = namespace.run("ip", "-6", "route", "show", "table", str(0x2021FD00)).stdout.splitlines()
    addresses = namespace.run("ip", "-br", "address", "show", "dev", "tun-firezone").stdout.split()[2:]
    return sorted(routes(namespace)), sorted(line.split()[0] for line in sixes), sorted(addresses)


async def test_a_refused_token_ends_the_client_at_once_in_one_line(
    namespace: Namespace, portal: ScriptedPortal, url: str, tmp_path: Path
) -> None:
    portal.status = 401
    program = Program(namespace, tmp_path, "client", FIREZONE_API_URL=url)
    assert await program.ended(5.0) == 1
    assert len(portal.logins) == 1
    last = program.text().splitlines()[-1]
    assert last.startswith("Firezone disconnected: ")
    assert "Traceback" not in program.text()
    assert not has_device(namespace)


async def test_a_portal_that_stays_away_ends_the_client_after_the_partition_time(
    namespace: Namespace, portal: ScriptedPortal, url: str, tmp_path: Path
) -> None:
    program = Program(namespace, tmp_path, "client", "-m", "2s", FIREZONE_API_URL=url)
    await program.until("tunnel configured")
    portal.status = 503
    begin = time.monotonic()
    await portal.stop()
    assert await program.ended() == 1
    # The end comes with the failure whose delay would pass the 2 s: with the shortest delays before it, after 0.25 + 0.375 s.
    assert 0.6 < time.monotonic() - begin < 8.0
    assert program.text().splitlines()[-1].startswith("Firezone disconnected: ")


async def test_a_second_client_is_told_that_the_device_is_taken(namespace: Namespace, url: str, tmp_path: Path) -> None:
    first = Program(namespace, tmp_path, "client", FIREZONE_API_URL=url)
    await first.until("tunnel configured")
    second = Program(namespace, tmp_path, "client", FIREZONE_API_URL=url)
    assert await second.ended() == 1
    last = second.text().splitlines()[-1]
    assert "tun-firezone" in last
    assert "Traceback" not in second.text()
    assert first.process.poll() is None
    assert "10.1.0.0/16" in routes(namespace)
    assert rules(namespace) == 3


async def test_a_udp_port_that_is_taken_costs_nothing(namespace: Namespace, url: str, tmp_path: Path) -> None:
    code = (
        "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('', 52625))\n"
        "print('bound', flush=True)\ntime.sleep(60)"
    )
    taken = tmp_path / "taken"
    with taken.open("w") as output:
        namespace.spawn(sys.executable, "-c", code, stdout=output)
    await until(lambda: "bound" in taken.read_text())
    program = Program(namespace, tmp_path, "client", FIREZONE_API_URL=url)
    await program.until("tunnel configured")
    assert re.search(r"udp socket bound family=4 port=(?!52625)\d+", program.text()), program.text()


async def test_an_ordinary_user_is_told_what_the_client_needs(
    namespace: Namespace, url: str, tmp_path: Path, nobody: tuple[str, ...]
) -> None:
    program = Program(namespace, tmp_path, "client", FIREZONE_API_URL=url, prefix=nobody)
    assert await program.ended() == 1
    last = program.text().splitlines()[-1]
    assert "root" in last or "CAP_NET_ADMIN" in last, last
    assert "Traceback" not in program.text()


async def test_the_token_is_in_no_line_even_at_trace(
    namespace: Namespace, portal: ScriptedPortal, url: str, tmp_path: Path
) -> None:
    chosen = "trace,websockets=trace,asyncio=trace,pyroute2=trace"
    program = Program(namespace, tmp_path, "client", FIREZONE_API_URL=url, RUST_LOG=chosen, LOG_DIR=str(tmp_path / "logs"))
    await program.until("tunnel configured")
    program.process.send_signal(signal.SIGTERM)
    assert await program.ended() == 0
    assert portal.logins[0]["token"] == TOKEN
    written = program.text() + (tmp_path / "logs" / "firezone-headless-client.latest").read_text()
    assert len(written) > 200
    assert TOKEN not in written


# gateway


def ask(namespace: Namespace, path: str) -> str:
    """Asks the gateway's health check and returns the status line."""
    code = (
        "import socket\ns=socket.create_connection(('127.0.0.1',8080),5)\n"
        f"s.sendall(b'GET {path} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\nprint(s.recv(1000).decode().splitlines()[0])"
    )
    return namespace.run(sys.executable, "-c", code, check=False).stdout.strip()


async def test_the_gateway_is_healthy_from_the_start_and_ready_with_the_portal(
    namespace: Namespace, portal: ScriptedPortal, url: str, tmp_path: Path
) -> None:
    portal.init, portal.status = GATEWAY_INIT, 503
    program = Program(namespace, tmp_path, "gateway", FIREZONE_API_URL=url)
    await until(lambda: len(portal.logins) > 0)
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, ask, namespace, "/healthz") == "HTTP/1.1 200 OK"
    assert "503" in await loop.run_in_executor(None, ask, namespace, "/readyz")
    portal.status = 101
    await program.until("tunnel configured")
    assert await loop.run_in_executor(None, ask, namespace, "/readyz") == "HTTP/1.1 200 OK"
    assert await loop.run_in_executor(None, ask, namespace, "/other") == "HTTP/1.1 404 Not Found"


async def test_the_gateway_sets_the_host_up_and_takes_it_down(
    namespace: Namespace, portal: ScriptedPortal, url: str, tmp_path: Path
) -> None:
    portal.init = GATEWAY_INIT
    program = Program(namespace, tmp_path, "gateway", FIREZONE_API_URL=url)
    await program.until("tunnel configured")
    assert "firezone_gateway" in namespace.run("nft", "list", "tables").stdout
    assert set(routes(namespace)) == {"100.64.0.0/11"}

    await portal.push("init", GATEWAY_INIT)
    await until(lambda: program.text().count("tunnel configured") == 2)
    assert rules(namespace) == 3

    program.process.send_signal(signal.SIGTERM)
    assert await program.ended(2.0) == 0, program.text()
    assert "firezone_gateway" not in namespace.run("nft", "list", "tables").stdout
    assert not has_device(namespace)
    assert rules(namespace) == 0
    assert "Traceback" not in program.text()


def ask_dns(namespace: Namespace, address: str, way: str) -> str:
    """Asks the gateway's DNS server for a TXT record and returns the word for what comes back."""
    code = (
        "import dns.flags, dns.message, dns.query, dns.rcode\nq = dns.message.make_query('a.test', 'TXT')\n"
        f"a = dns.query.{way}(q, '{address}', timeout=7, port=53535)\nprint(dns.rcode.to_text(a.rcode()), *a.answer)"
    )
    return namespace.run(sys.executable, "-c", code).stdout.strip()


async def test_the_gateway_answers_dns_on_its_tunnel_addresses_also_after_another_init(
    namespace: Namespace, portal: ScriptedPortal, url: str, tmp_path: Path
) -> None:
    """Nobody answers behind it in this namespace: clients are told so at once instead of waiting."""
    portal.init = GATEWAY_INIT
    program = Program(namespace, tmp_path, "gateway", FIREZONE_API_URL=url)
    loop = asyncio.get_running_loop()
    for count in (1, 2):
        await until(lambda count=count: program.text().count("tunnel configured") == count)
        for way in ("udp", "tcp"):
            for address in GATEWAY_INIT["interface"].values():
                assert await loop.run_in_executor(None, ask_dns, namespace, address, way) == "SERVFAIL"
        await portal.push("init", GATEWAY_INIT)
    assert "Traceback" not in program.text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_amid_the_gateways_start_leaves_no_table(
    namespace: Namespace, url: str, tmp_path: Path, number: signal.Signals
) -> None:
    real = shutil.which("nft", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    assert real is not None
    slow = tmp_path / "bin" / "nft"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/sh\n{real} "$@" || exit\nsleep 0.5\n')
    slow.chmod(0o755)
    program = Program(namespace, tmp_path, "gateway", FIREZONE_API_URL=url, PATH=f"{slow.parent}:{os.environ['PATH']}")
    await until(lambda: "firezone_gateway" in namespace.run(real, "list", "tables").stdout)
    program.process.send_signal(number)
    assert await program.ended() == 0, program.text()
    assert "firezone_gateway" not in namespace.run(real, "list", "tables").stdout
    assert "Traceback" not in program.text()


async def test_a_gateway_told_twice_to_end_hurries_and_still_tidies_up(
    namespace: Namespace, portal: ScriptedPortal, url: str, tmp_path: Path
) -> None:
    portal.init = GATEWAY_INIT
    program = Program(namespace, tmp_path, "gateway", FIREZONE_API_URL=url)
    await program.until("tunnel configured")
    # The portal, which runs in this loop, does not answer the Close meanwhile: only haste can end the wait.
    program.process.send_signal(signal.SIGTERM)
    time.sleep(0.05)  # noqa: ASYNC251
    program.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 0.8
    while program.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)  # noqa: ASYNC251
    assert program.process.poll() == 0, program.text()
    assert "firezone_gateway" not in namespace.run("nft", "list", "tables").stdout
    assert rules(namespace) == 0
    assert "Traceback" not in program.text()


async def test_a_gateway_told_three_times_leaves_at_once_and_no_table(
    namespace: Namespace, portal: ScriptedPortal, url: str, tmp_path: Path
) -> None:
    portal.init = GATEWAY_INIT
    stuck = tmp_path / "stuck" / "sitecustomize.py"
    stuck.parent.mkdir()
    stuck.write_text("import asyncio\nimport firezone.io.health as h\nh.HealthServer.stop = lambda self: asyncio.sleep(60)\n")
    path = ":".join([str(stuck.parent), *sys.path])
    program = Program(namespace, tmp_path, "gateway", FIREZONE_API_URL=url, PYTHONPATH=path)
    await program.until("tunnel configured")
    for _ in range(3):
        assert program.process.poll() is None
        program.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
    assert await program.ended(2.0) == 0, program.text()
    assert "firezone_gateway" not in namespace.run("nft", "list", "tables").stdout


async def test_a_hangup_ends_the_gateway_in_order(namespace: Namespace, portal: ScriptedPortal, url: str, tmp_path: Path) -> None:
    portal.init = GATEWAY_INIT
    program = Program(namespace, tmp_path, "gateway", FIREZONE_API_URL=url)
    await program.until("tunnel configured")
    program.process.send_signal(signal.SIGHUP)
    assert await program.ended(2.0) == 0, program.text()
    assert "firezone_gateway" not in namespace.run("nft", "list", "tables").stdout


async def test_a_gateway_of_an_ordinary_user_is_told_what_it_needs(
    namespace: Namespace, url: str, tmp_path: Path, nobody: tuple[str, ...]
) -> None:
    program = Program(namespace, tmp_path, "gateway", FIREZONE_API_URL=url, prefix=nobody)
    assert await program.ended() == 1
    assert "CAP_NET_ADMIN" in program.text()
    assert "--no-check" in program.text()


async def test_a_health_port_that_is_taken_costs_the_check_alone(
    namespace: Namespace, portal: ScriptedPortal, url: str, tmp_path: Path
) -> None:
    portal.init = GATEWAY_INIT
    program = Program(namespace, tmp_path, "gateway", FIREZONE_API_URL=url, HEALTH_CHECK_ADDR=f"127.0.0.1:{portal.port}")
    await program.until("tunnel configured")
    assert "no health check" in program.text()
