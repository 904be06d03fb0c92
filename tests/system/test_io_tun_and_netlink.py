"""The real TUN device, netlink, firewall and change notifier, each in a network namespace of its own.

Every case runs as a script inside the namespace, since pyroute2 and the device act where their process is.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap

import pytest

from tests.harness.namespaces import Namespace, connect

pytestmark = pytest.mark.root

PRELUDE = """
import asyncio, contextlib, ipaddress, os, subprocess, sys, time
from firezone.base.errors import ConfigError, TunClosed
from firezone.io.netlink import Netlink
from firezone.io.network_changes import NetworkChanges
from firezone.io.reader_thread import ReaderThread
from firezone.io.tun_device import TunDevice

NAME = "tun-firezone"
net = ipaddress.ip_network

def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout

def until(condition, seconds=5):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
"""


def script(namespace: Namespace, body: str) -> str:
    """Runs Python inside the namespace and returns what it printed."""
    return namespace.run(sys.executable, "-c", PRELUDE + textwrap.dedent(body)).stdout


def test_addresses_and_routes_are_reconciled_and_others_are_left_alone() -> None:
    with Namespace() as here:
        here.run("ip", "rule", "add", "not", "fwmark", "0xfd002021", "lookup", "0x2021fd00", "protocol", "kernel")
        script(
            here,
            """
            def rules():
                return sum(line.count("0xfd002021") for v in "46" for line in ip("-" + v, "rule").splitlines())

            def addresses():
                return {word for word in ip("-br", "address", "show", NAME).split() if "/" in word}

            async def main():
                device = TunDevice.open(NAME)
                for _ in range(2):  # a start after a start
                    netlink = Netlink(NAME)
                    await netlink.start()
                    assert rules() == 0
                    for _ in range(3):
                        await netlink.set_addresses(["100.64.0.5", "fd00:2021:1111::5"])
                        await netlink.set_routes([net("10.0.0.0/8"), net("0.0.0.0/0"), net("2001:db8::/64")])
                    assert rules() == 6, rules()
                assert addresses() == {"100.64.0.5/32", "fd00:2021:1111::5/128"}, addresses()
                assert "mtu 1280" in ip("link", "show", NAME)
                assert "10.0.0.0/8 dev" in ip("route", "show", "table", str(0x2021FD00))
                assert "default dev" in ip("route", "show", "table", str(0x2021FD02))
                assert "2001:db8::/64" in ip("-6", "route", "show", "table", str(0x2021FD00))

                # What others put stays, flags and all; only ours changes.
                ip("address", "add", "192.0.2.77/24", "dev", NAME, "noprefixroute")
                ip("rule", "add", "priority", "77", "lookup", "77")
                ip("route", "add", "198.51.100.0/24", "dev", NAME)
                before = ip("address", "show", "to", "192.0.2.77")
                await netlink.set_addresses(["100.64.0.6", "fd00:2021:1111::5"])
                assert addresses() == {"100.64.0.6/32", "fd00:2021:1111::5/128", "192.0.2.77/24"}, addresses()
                assert ip("address", "show", "to", "192.0.2.77") == before
                assert "noprefixroute" in before

                # A route lost behind our back returns; one that is gone already is removed without a word.
                ip("route", "del", "10.0.0.0/8", "table", str(0x2021FD00))
                await netlink.set_routes([net("10.0.0.0/8"), net("172.16.0.0/12")])
                assert "10.0.0.0/8" in ip("route", "show", "table", str(0x2021FD00))
                assert "default" not in ip("route", "show", "table", str(0x2021FD02))
                ip("route", "del", "10.0.0.0/8", "table", str(0x2021FD00))
                await netlink.set_routes([net("172.16.0.0/12")])

                assert set(await netlink.local_addresses()) == set()
                await netlink.stop()
                assert rules() == 0
                assert "lookup 77" in ip("rule")
                assert "198.51.100.0/24" in ip("route")
                device.close()

            asyncio.run(main())
            """,
        )


def test_without_ipv6_the_tunnel_has_ipv4() -> None:
    with Namespace() as here:
        said = script(
            here,
            """
            async def main():
                for where in ("all", "default"):
                    open(f"/proc/sys/net/ipv6/conf/{where}/disable_ipv6", "w").write("1")
                with contextlib.closing(TunDevice.open(NAME)):
                    netlink = Netlink(NAME)
                    await netlink.start()
                    await netlink.set_addresses(["100.64.0.5", "fd00:2021:1111::5"])
                    await netlink.set_routes([net("10.0.0.0/8"), net("2001:db8::/64")])
                    assert "100.64.0.5/32" in ip("-br", "address", "show", NAME)
                    assert "10.0.0.0/8" in ip("route", "show", "table", str(0x2021FD00))
                    await netlink.stop()

            asyncio.run(main())
            """,
        )
        assert "Traceback" not in said


def test_link_routes_are_copied_with_metric_and_a_look_does_not_cause_the_next() -> None:
    with Namespace() as here, Namespace() as there:
        connect(here, there, "lan", ["192.168.7.1/24", "2001:db8:7::1/64"], ["192.168.7.2/24", "2001:db8:7::2/64"])
        script(
            here,
            """
            async def main():
                device = TunDevice.open(NAME)
                netlink = Netlink(NAME)
                await netlink.start()
                await netlink.set_addresses(["100.64.0.5", "fd00:2021:1111::5"])
                calls = []
                changes = NetworkChanges(lambda: calls.append(1))
                await netlink.sync_link_routes()
                assert "192.168.7.0/24 dev lan" in ip("route", "show", "table", str(0x2021FD01))
                assert "2001:db8:7::/64 dev lan" in ip("-6", "route", "show", "table", str(0x2021FD01))
                assert set(await netlink.local_addresses()) == {"192.168.7.1", "2001:db8:7::1"}
                for _ in range(10):  # new links settle their IPv6 addresses for a while
                    calls.clear()
                    await asyncio.sleep(1.5)
                    if not calls:
                        break
                await netlink.sync_link_routes()
                await asyncio.sleep(0.8)
                assert not calls, "a look at an unchanged network is a change"
                ip("link", "set", "lan", "down")
                await netlink.sync_link_routes()
                assert "lan" not in ip("route", "show", "table", str(0x2021FD01))
                ip("link", "set", "lan", "up")
                await asyncio.sleep(1)
                assert calls
                await netlink.sync_link_routes()
                assert "192.168.7.0/24 dev lan" in ip("route", "show", "table", str(0x2021FD01))
                changes.close()
                await netlink.stop()
                device.close()

            asyncio.run(main())
            """,
        )


def test_a_second_program_is_told_and_a_successor_waits_for_its_predecessor() -> None:
    with Namespace() as here:
        script(
            here,
            """
            first = TunDevice.open(NAME)
            try:
                TunDevice.open(NAME)
            except ConfigError as error:
                assert "already running" in str(error), error
            else:
                raise AssertionError("two programs share a device")
            # The predecessor lingers for a moment: its descriptor closes while we try.
            import threading
            threading.Timer(0.3, first.close).start()
            second = TunDevice.open(NAME)
            second.close()
            for _ in range(50):
                TunDevice.open(NAME).close()
            assert len(os.listdir("/proc/self/fd")) < 20
            """,
        )


def test_an_interface_of_another_kind_is_not_taken() -> None:
    with Namespace() as here:
        here.run("ip", "link", "add", "tun-firezone", "type", "dummy", check=False)
        if "tun-firezone" not in here.run("ip", "link").stdout:
            here.run("ip", "link", "add", "tun-firezone", "type", "veth", "peer", "name", "other")
        script(
            here,
            """
            try:
                TunDevice.open(NAME)
            except ConfigError as error:
                assert NAME in str(error)
            else:
                raise AssertionError("took over an interface of somebody else")
            """,
        )
        assert "tun-firezone" in here.run("ip", "link").stdout


@pytest.mark.parametrize("threaded", [False, True])
def test_a_deleted_device_ends_its_reader_and_one_that_is_down_does_not(threaded: bool) -> None:
    with Namespace() as here:
        script(
            here,
            f"threaded = {threaded}\n"
            + textwrap.dedent("""
            device = TunDevice.open(NAME)
            ip("link", "set", NAME, "up")
            reader = ReaderThread("tun reader", device.ring, [device.port]) if threaded else None
            source = reader or device
            ip("link", "set", NAME, "down")
            for _ in range(20):
                source.fill(8)
                time.sleep(0.01)
            assert not source.take_errors()
            ip("link", "set", NAME, "up")
            ip("link", "del", NAME)
            if reader is not None:
                found = []
                until(lambda: found.extend(reader.take_errors()) or found)
                assert [type(error).__name__ for error in found] == ["ReaderStopped"], found
                reader.stop()
            else:
                source.fill(8)
                assert [type(error).__name__ for error in source.take_errors()] == ["TunClosed"]
            device.close()
            """),
        )


def test_an_idle_reader_lets_go_of_the_device_at_once() -> None:
    """T15."""
    with Namespace() as here:
        script(
            here,
            """
            device = TunDevice.open(NAME)
            ip("link", "set", NAME, "up")
            reader = ReaderThread("tun reader", device.ring, [device.port])
            before = time.monotonic()
            reader.stop()
            device.close()
            assert time.monotonic() - before < 1
            assert NAME not in ip("link")
            """,
        )


def test_the_firewall_table_is_ours_alone() -> None:
    if shutil.which("nft") is None:
        pytest.skip("machine lacks nft")
    with Namespace() as here:
        here.run("nft", "add", "table", "inet", "theirs")
        script(
            here,
            """
            from firezone.io.firewall import set_up_forwarding, take_down_forwarding
            take_down_forwarding(NAME)
            for _ in range(2):
                set_up_forwarding(NAME, outgoing=["eth*", "wan"])
            """,
        )
        listed = json.loads(here.run("nft", "-j", "list", "table", "inet", "firezone_gateway").stdout)["nftables"]
        assert sum("rule" in item for item in listed) == 2 + 2 * 2 + 2 * 5  # forwarded, masqueraded, for ourselves
        assert here.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout.strip() == "1"
        script(here, "from firezone.io.firewall import take_down_forwarding\ntake_down_forwarding(NAME)")
        assert here.run("nft", "list", "tables").stdout.split() == ["table", "inet", "theirs"]


THEIRS = """
add table ip theirs
add chain ip theirs FORWARD { type filter hook forward priority 0; policy drop; }
add chain ip theirs INPUT { type filter hook input priority 0; policy drop; }
add rule ip theirs FORWARD ct state established accept
add table inet walls
add chain inet walls forward { type filter hook forward priority 5; policy accept; }
add rule inet walls forward ct state established accept
add rule inet walls forward counter reject
add chain inet walls open { type filter hook forward priority 6; policy accept; }
add rule inet walls open tcp dport 25 drop
add chain inet walls other { type nat hook prerouting priority 6; }
"""


def test_chains_of_others_that_drop_let_the_tunnel_through_until_the_end() -> None:
    """An accept in our table does not overrule them, and clients would see silence."""
    if shutil.which("nft") is None:
        pytest.skip("machine lacks nft")
    with Namespace() as here:
        here.run("nft", THEIRS)
        before = here.run("nft", "list", "ruleset").stdout
        for _ in range(2):  # the first is killed and leaves its rules
            script(here, "from firezone.io.firewall import set_up_forwarding\nset_up_forwarding(NAME, outgoing=[])")
        shown = here.run("nft", "list", "chain", "ip", "theirs", "FORWARD").stdout.splitlines()
        ours = [line.strip() for line in shown if "firezone gateway" in line]
        assert len(ours) == 2
        assert all("accept" in line for line in ours)
        assert "firezone gateway" in shown[3] + shown[2], "at the head"
        for chain, count in (("ip theirs INPUT", 1), ("inet walls forward", 2), ("inet walls open", 0), ("inet walls other", 0)):
            assert here.run("nft", "list", "chain", *chain.split()).stdout.count("firezone gateway") == count, chain
        script(here, "from firezone.io.firewall import take_down_forwarding\ntake_down_forwarding(NAME)")
        assert here.run("nft", "list", "ruleset").stdout == before


@pytest.mark.parametrize("is_open", [False, True])
def test_of_the_own_tunnel_address_only_dns_and_echo_are_reached_unless_it_is_opened(is_open: bool) -> None:
    if shutil.which("nft") is None:
        pytest.skip("machine lacks nft")
    with Namespace() as here:
        script(
            here,
            f"""
            import asyncio, socket, subprocess
            from firezone.io.firewall import set_up_forwarding
            from firezone.io.netlink import Netlink
            from firezone.base.net import TUNNEL_V4, TUNNEL_V6
            from firezone.io.tun_device import TunDevice
            from tests.harness import packets
            async def main():
                device, netlink = TunDevice.open(), Netlink(NAME)
                await netlink.start()
                await netlink.set_addresses(["100.64.0.2", "fd00:2021:1111::2"])
                await netlink.set_routes([TUNNEL_V4, TUNNEL_V6])
                set_up_forwarding(NAME, outgoing=[], is_own_address_open={is_open})
                listeners = {{}}
                for port in (53, 53535, 9999):
                    listeners[port] = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
                    listeners[port].bind(("::", port))
                    listeners[port].setblocking(False)
                for client, own in (("100.64.0.1", "100.64.0.2"), ("fd00:2021:1111::1", "fd00:2021:1111::2")):
                    for port in listeners:
                        device.write(packets.udp(client, own, b"hello", ports=(5000, port)), 0)
                await asyncio.sleep(0.3)
                heard = {{}}
                for port, listener in listeners.items():
                    heard[port] = 0
                    while True:
                        try:
                            listener.recv(99)
                        except BlockingIOError:
                            break
                        heard[port] += 1
                assert heard == {{53: 2, 53535: 2, 9999: 2 if {is_open} else 0}}, heard
                device.fill(8)
                errors = []
                while device.ring.ready():
                    slot = device.ring.tail()
                    packet = bytes(device.ring.slab[slot, 10:10 + int(device.ring.length[slot])])
                    errors.append(packet)
                    device.release(1)
                refused = [p for p in errors if (p[9], p[20:22]) == (1, bytes((3, 13))) or (p[6], p[40:42]) == (58, bytes((1, 1)))]
                assert len(refused) == (0 if {is_open} else 2), errors
                await netlink.stop()
                device.close()
            asyncio.run(main())
            """,
        )
