"""The machine's DNS in mounts of its own: real /etc/resolv.conf, real systemd-resolved, real kills."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import LACKS
from tests.harness.dns_host import BUS_CONFIG, BUS_SOCKET, FAR_END, LINK, DnsHost, find_resolved
from tests.harness.namespaces import Namespace, configure
from tests.harness.scripted_portal import ScriptedPortal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = pytest.mark.root

SENTINELS = "100.100.111.1,fd00:2021:1111:8000:100:100:111:0"
KILLS = int(os.environ.get("FIREZONE_TEST_KILLS", "12"))
LONG = b"nameserver 192.0.2.53\n" + b"".join(b"# line %d of a long file\n" % number for number in range(600))
ORIGINALS = {"short": b"search a.example\nnameserver 192.0.2.53\noptions timeout:1", "long": LONG}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[DnsHost]:
    with DnsHost(tmp_path) as host:
        yield host


def life(host: DnsHost, method: str, *more: str) -> subprocess.Popen[str]:
    """Starts a program that takes the machine's DNS and gives it back in a loop, or holds it."""
    child = host.spawn(sys.executable, "-m", "tests.harness.dns_life", method, SENTINELS, *more)
    expect(child, "applied" if more else "ready")
    return child


def expect(child: subprocess.Popen[str], wanted: str) -> None:
    """Reads lines until one contains the text."""
    assert child.stdout is not None
    assert any(wanted in line for line in child.stdout), f"{wanted!r} was never said"


def eventually(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def names(host: DnsHost) -> set[str]:
    return {entry.name for entry in host.etc.iterdir() if entry.name.startswith("resolv")}


# /etc/resolv.conf


@pytest.mark.parametrize("original", ORIGINALS.values(), ids=ORIGINALS.keys())
@pytest.mark.parametrize("is_bind_mount", [False, True], ids=["file", "bind mount"])
def test_killed_at_random_moments_dns_comes_back_byte_for_byte(host: DnsHost, original: bytes, is_bind_mount: bool) -> None:
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    if is_bind_mount:
        host.run("sh", "-c", "cp /etc/resolv.conf /run/own && mount --bind /run/own /etc/resolv.conf")
    file = host.path("/etc/resolv.conf")
    caught = 0
    for kill in range(KILLS):
        file.write_bytes(original)
        child = life(host, "etc-resolv-conf")
        time.sleep(dice.random() * 0.02)
        child.kill()
        child.wait()
        caught += file.read_bytes() != original
        if kill % 2:
            host.client("dns", "revert")
        else:  # The next start, which ends here for want of a token.
            host.client("--dns-control", "etc-resolv-conf", "--token-path", "/run/none", "--firezone-id", "x", check=False)
        assert file.read_bytes() == original, f"seed {seed}, kill {kill}"
        assert names(host) == {"resolv.conf"}, f"seed {seed}, kill {kill}"
    assert caught > 0


def test_a_held_file_is_the_clients_until_it_ends(host: DnsHost) -> None:
    child = life(host, "etc-resolv-conf", "hold")
    assert "set by Firezone" in host.client("dns", "status").stdout
    refused = host.client("dns", "revert", check=False)
    assert refused.returncode == 1
    assert "controlled by a Firezone client that is running" in refused.stdout
    child.kill()
    child.wait()
    assert "is the original again" in host.client("dns", "revert").stdout
    assert host.client("dns", "revert").stdout.startswith("Nothing to put back")
    assert (host.etc / "resolv.conf").read_bytes() == b"nameserver 192.0.2.53\n"


@pytest.mark.parametrize("way", ["in place", "by rename"])
def test_a_dhcp_clients_new_server_is_noticed_and_the_file_taken_again(host: DnsHost, way: str) -> None:
    child = life(host, "etc-resolv-conf", "hold")
    file = host.path("/etc/resolv.conf")
    if way == "in place":
        file.write_bytes(b"nameserver 198.51.100.53\n")
    else:
        host.run("sh", "-c", "echo nameserver 198.51.100.53 >/etc/new && mv /etc/new /etc/resolv.conf")
    expect(child, "resolvers 198.51.100.53")
    eventually(lambda: b"100.100.111.1" in file.read_bytes(), timeout=15)
    child.kill()
    child.wait()
    host.client("dns", "revert")
    assert file.read_bytes() == b"nameserver 198.51.100.53\n"


def test_a_read_only_etc_is_told_at_the_start(host: DnsHost) -> None:
    host.run("mount", "-o", "remount,bind,ro", "/etc")
    done = host.run(sys.executable, "-m", "tests.harness.dns_life", "etc-resolv-conf", SENTINELS, check=False)
    assert done.returncode == 1
    assert "Read-only file system. /etc is read-only: mount it writable" in done.stdout
    assert host.client("dns", "revert").stdout.startswith("Nothing to put back")


def test_an_immutable_file_is_told_and_left(host: DnsHost) -> None:
    file = host.etc / "resolv.conf"
    if shutil.which("chattr") is None or subprocess.run(["chattr", "+i", file], capture_output=True, check=False).returncode:
        pytest.skip(f"{LACKS} a file system with immutable files")
    try:
        done = host.run(sys.executable, "-m", "tests.harness.dns_life", "etc-resolv-conf", SENTINELS, check=False)
        assert "run chattr -i /etc/resolv.conf" in done.stdout
        assert names(host) == {"resolv.conf"}
    finally:
        subprocess.run(["chattr", "-i", file], check=True)


def test_the_stubs_link_stays(host: DnsHost) -> None:
    file = host.etc / "resolv.conf"
    file.unlink()
    file.symlink_to("../run/systemd/resolve/stub-resolv.conf")
    done = host.run(sys.executable, "-m", "tests.harness.dns_life", "etc-resolv-conf", SENTINELS, check=False)
    assert "is a link to ../run/systemd/resolve/stub-resolv.conf" in done.stdout
    host.client("dns", "revert")
    assert os.readlink(file) == "../run/systemd/resolve/stub-resolv.conf"
    assert "a link, managed by another program" in host.client("dns", "status").stdout


# systemd-resolved


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("dbus-daemon") is None:
        pytest.skip(f"{LACKS} dbus-daemon")
    found = find_resolved(tmp_path_factory.mktemp("package"))
    if found is None:
        pytest.skip(f"{LACKS} systemd-resolved")
    return found


class WithResolved:
    """systemd-resolved and its bus on the machine; a link `uplink` has a server of its own."""

    def __init__(self, host: DnsHost, package: Path) -> None:
        self.host = host
        host.path("/run/dbus/bus.conf").write_text(BUS_CONFIG.format(kind="system", socket=BUS_SOCKET))
        host.spawn("dbus-daemon", "--config-file=/run/dbus/bus.conf", "--nofork", "--nopidfile")
        eventually(host.path(BUS_SOCKET).exists)
        (host.etc / "resolv.conf").unlink()
        (host.etc / "resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
        host.spawn(str(package / "lib/systemd/systemd-resolved"))
        self._resolvectl = str(package / "usr/bin/resolvectl") if package != Path("/") else "resolvectl"
        eventually(host.path("/run/systemd/resolve/stub-resolv.conf").exists)
        host.run(
            "sh",
            "-c",
            "ip link add uplink type veth; ip address add 192.0.2.2/24 dev uplink; ip link set uplink up; ip link set veth0 up",
        )
        eventually(lambda: self.ctl("dns", "uplink", "192.0.2.53", check=False).returncode == 0)

    def ctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.host.run(self._resolvectl, "--no-pager", *arguments, check=check)

    def link(self) -> str:
        return self.ctl("status", LINK).stdout

    def files(self) -> dict[str, bytes]:
        """The machine's DNS, as programs read it."""
        directory = self.host.path("/run/systemd/resolve")
        return {name: (directory / name).read_bytes() for name in ("stub-resolv.conf", "resolv.conf")}


@pytest.fixture
def machine(host: DnsHost, resolved: Path) -> WithResolved:
    return WithResolved(host, resolved)


def test_resolved_is_in_the_state_that_its_own_command_makes(machine: WithResolved) -> None:
    before = machine.link(), machine.files()
    machine.ctl("dns", LINK, *SENTINELS.split(","))
    machine.ctl("domain", LINK, "corp.example", "~.")
    machine.ctl("llmnr", LINK, "true")
    wanted = machine.link()
    assert "corp.example ~." in wanted
    machine.ctl("revert", LINK)
    assert machine.link() == before[0]
    child = life(machine.host, "systemd-resolved", "hold")
    assert machine.link() == wanted
    child.kill()
    child.wait()
    assert "has forgotten the servers of tun-firezone" in machine.host.client("dns", "revert").stdout
    assert (machine.link(), machine.files()) == before


def test_resolved_is_as_before_when_a_killed_clients_link_goes(machine: WithResolved) -> None:
    before = machine.files()
    dice = random.Random(5)
    for _ in range(5):
        child = life(machine.host, "systemd-resolved")
        time.sleep(dice.random() * 0.05)
        child.kill()
        child.wait()
        machine.host.run("ip", "link", "delete", LINK)  # As the kernel does when the client's TUN descriptor is closed.
        eventually(lambda: machine.files() == before)
        machine.host.run("sh", "-c", f"ip link add {LINK} type veth peer name far && ip link set {LINK} up")


def test_the_networks_servers_are_read_from_resolved_and_watched(machine: WithResolved) -> None:
    child = life(machine.host, "systemd-resolved", "hold")
    assert "192.0.2.53" in machine.host.client("dns", "status").stdout
    machine.ctl("dns", "uplink", "198.51.100.53", "2001:db8::53", "fe80::53")
    expect(child, "resolvers 198.51.100.53 2001:db8::53\n")


ANSWERS = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("100.100.111.1", 53))
print("listening", flush=True)
while True:
    query, client = server.recvfrom(4096)
    end = query.index(0, 12)
    print(query[12:end], flush=True)
    server.sendto(query[:2] + b"\\x81\\x83" + query[4:6] + bytes(6) + query[12:end + 5], client)
"""
"""Says every name that is asked for, and that there is no such name."""


def test_every_name_is_asked_of_the_sentinel_and_none_of_the_network(machine: WithResolved) -> None:
    with Namespace() as far:
        machine.host.run("ip", "link", "set", FAR_END, "netns", str(far.pid))
        configure(far, FAR_END, ["100.100.111.1/24"])
        answers = far.spawn(sys.executable, "-c", ANSWERS, stdout=subprocess.PIPE)
        expect(answers, "listening")
        life(machine.host, "systemd-resolved", "hold")
        for name, asked in (("www.example.org", "example"), ("host.corp.example", "corp"), ("single", "single")):
            assert "not found" in machine.ctl("--cache=no", "query", name, check=False).stdout
            expect(answers, asked)


def test_without_resolved_the_client_says_what_to_do(host: DnsHost) -> None:
    done = host.run(sys.executable, "-m", "tests.harness.dns_life", "systemd-resolved", SENTINELS, check=False)
    assert done.returncode == 1
    assert "the D-Bus system bus cannot be reached" in done.stdout
    assert "use --dns-control etc-resolv-conf or disabled" in done.stdout


# the client


@pytest.fixture
async def portal(host: DnsHost) -> AsyncIterator[ScriptedPortal]:
    host.run("ip", "link", "delete", LINK)  # The client brings its own.
    interface = {
        "ipv4": "100.64.0.9", "ipv6": "fd00:2021:1111::9", "search_domain": "corp.example",
        "upstream_dns": [{"protocol": "ip_port", "address": address} for address in ("192.0.2.53:53", "[2001:db8::53]:53")],
    }  # fmt: skip
    portal = ScriptedPortal({"interface": interface, "resources": [], "relays": []})
    await portal.start(host)  # type: ignore[arg-type]
    yield portal
    await portal.stop()


async def start_client(host: DnsHost, portal: ScriptedPortal, method: str) -> subprocess.Popen[str]:
    child = host.spawn(
        sys.executable, "-m", "firezone.client", FIREZONE_API_URL=f"ws://127.0.0.1:{portal.port}", FIREZONE_TOKEN="abc",
        FIREZONE_ID="id", FIREZONE_DNS_CONTROL=method,
    )  # fmt: skip
    await asyncio.to_thread(expect, child, "tunnel configured")
    return child


async def test_the_client_takes_the_file_and_gives_it_back_when_it_ends(host: DnsHost, portal: ScriptedPortal) -> None:
    file = host.etc / "resolv.conf"
    original = file.read_bytes()
    for number in (signal.SIGTERM, signal.SIGINT):
        child = await start_client(host, portal, "etc-resolv-conf")
        assert b"nameserver 100.100.111.1\nnameserver fd00:2021:1111:8000:100:100:111:0\nsearch corp.example\n" in file.read_bytes()
        child.send_signal(number)
        assert await asyncio.to_thread(child.wait, 5) == 0
        assert file.read_bytes() == original
        assert names(host) == {"resolv.conf"}


async def test_a_killed_clients_file_is_recovered_by_the_next_start_whatever_its_method(
    host: DnsHost, portal: ScriptedPortal
) -> None:
    file = host.etc / "resolv.conf"
    original = file.read_bytes()
    for _ in range(2):  # The second recovers what the first left, and takes the file again.
        child = await start_client(host, portal, "etc-resolv-conf")
        child.kill()
        await asyncio.to_thread(child.wait, 5)
        assert file.read_bytes() != original
    host.client("--token-path", "/run/none", "--firezone-id", "x", check=False)  # systemd-resolved, the default.
    assert file.read_bytes() == original
    assert names(host) == {"resolv.conf"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_the_client_sets_its_link_and_resolved_forgets_it(
    host: DnsHost, portal: ScriptedPortal, resolved: Path, number: signal.Signals
) -> None:
    machine = WithResolved(host, resolved)
    before = machine.files()
    child = await start_client(host, portal, "systemd-resolved")
    assert "corp.example ~." in machine.link()
    child.send_signal(number)
    await asyncio.to_thread(child.wait, 5)
    eventually(lambda: machine.files() == before)
    assert machine.host.client("dns", "revert").stdout.startswith("Nothing to put back")


async def test_programs_that_ask_resolved_are_answered_by_the_client(host: DnsHost, portal: ScriptedPortal, resolved: Path) -> None:
    """Through the stub of a real systemd-resolved, to the sentinels and back; a name of one label gets the search domain."""
    site = {"id": "00000000-0000-4000-8000-000000000002", "name": "Site"}
    portal.init["resources"] = [{
        "type": "dns", "id": "00000000-0000-4000-8000-000000000001", "name": "Corp", "address": "*.corp.example",
        "address_description": None, "gateway_groups": [site], "ip_stack": "dual",
    }]  # fmt: skip
    machine = WithResolved(host, resolved)
    child = await start_client(host, portal, "systemd-resolved")
    first = await asyncio.to_thread(machine.ctl, "--cache=no", "query", "wiki.corp.example")
    assert all(f"100.96.0.{number} " in first.stdout for number in (1, 2, 3, 4))
    assert "fd00:2021:1111:8000::3 " in first.stdout
    assert f"link: {LINK}" in first.stdout
    second = await asyncio.to_thread(machine.ctl, "--cache=no", "query", "intranet")
    assert "100.96.0.5 " in second.stdout
    assert "intranet.corp.example" in second.stdout
    pointer = await asyncio.to_thread(machine.ctl, "--cache=no", "query", "100.96.0.1")
    assert "wiki.corp.example" in pointer.stdout
    stub = await asyncio.to_thread(host.run, "dig", "+short", "+tcp", "@127.0.0.53", "wiki.corp.example", "A")
    assert sorted(stub.stdout.split()) == [f"100.96.0.{number}" for number in (1, 2, 3, 4)]
    child.terminate()
    assert await asyncio.to_thread(child.wait, 5) == 0


async def test_a_file_that_cannot_be_taken_ends_the_client_with_one_line(host: DnsHost, portal: ScriptedPortal) -> None:
    host.run("mount", "-o", "remount,bind,ro", "/etc")
    done = await asyncio.to_thread(
        host.run, "env", f"FIREZONE_API_URL=ws://127.0.0.1:{portal.port}", "FIREZONE_TOKEN=abc", "FIREZONE_ID=id", sys.executable,
        "-m", "firezone.client", "--dns-control", "etc-resolv-conf", check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].endswith("use --dns-control systemd-resolved or disabled.")
    assert "Traceback" not in done.stdout
    assert LINK not in host.run("ip", "link").stdout
