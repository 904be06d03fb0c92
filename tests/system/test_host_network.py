"""What the tunnel changes on a host, in a network namespace of its own: device, addresses, routes, rules, firewall."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.harness.namespaces import Namespace

pytestmark = pytest.mark.root

PREAMBLE = """
import asyncio, ipaddress, json, subprocess, sys
from firezone.base.errors import ConfigError
from firezone.io.firewall import set_up_forwarding, take_down_forwarding
from firezone.io.netlink import Netlink
from firezone.io.network_changes import NetworkChanges
from firezone.io.tun_device import TunDevice
NETWORKS = [ipaddress.ip_network(text) for text in ("10.20.0.0/16", "fd20:20::/64")]
def sh(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout
def rules():
    return {family: sh("ip", family, "rule").count("fwmark") for family in ("-4", "-6")}
def routes(table):
    shown = [sh("ip", family, "route", "show", "table", table) for family in ("-4", "-6")]
    return sorted(line.split()[0] for text in shown for line in text.splitlines())
def addresses():
    found = json.loads(sh("ip", "-j", "addr", "show", "tun-firezone"))[0]["addr_info"]
    return sorted(one["local"] for one in found)
found = {}
"""


def run(script: str) -> dict[str, object]:
    """Runs a script in a fresh network namespace with one veth pair, and returns the object `found` it filled."""
    with Namespace() as host:
        host.run("ip", "link", "add", "lan", "type", "veth", "peer", "name", "other")
        host.run("ip", "addr", "add", "192.0.2.7/24", "dev", "lan")
        host.run("ip", "link", "set", "lan", "up")
        host.run("ip", "link", "set", "other", "up")
        done = host.run(sys.executable, "-c", PREAMBLE + script + "\nprint(json.dumps(found))", check=False)
        assert done.returncode == 0, done.stderr
        result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
        return result


def test_addresses_routes_and_rules_are_reconciled_and_taken_back() -> None:
    found = run("""
async def main():
    device, netlink = TunDevice.open(), Netlink("tun-firezone")
    await netlink.start()
    for _ in range(3):
        await netlink.set_addresses(["100.64.0.1", "fd00:2021:1111::1"])
        await netlink.set_routes(NETWORKS)
    found["rules"], found["routes"] = rules(), routes("0x2021fd00")
    link = json.loads(sh("ip", "-j", "link", "show", "tun-firezone"))[0]
    found["link"] = [link["mtu"], "UP" in link["flags"]]
    sh("ip", "addr", "add", "198.18.0.1/32", "dev", "tun-firezone")
    await netlink.set_addresses(["100.64.0.2", "fd00:2021:1111::1"])
    await netlink.set_routes(NETWORKS[:1])
    found["changed"] = [addresses(), routes("0x2021fd00")]
    await netlink.sync_link_routes()
    found["link_routes"] = routes("0x2021fd01")
    found["local"] = await netlink.local_addresses()
    await netlink.stop()
    found["after"] = [rules(), routes("0x2021fd00"), routes("0x2021fd01")]
    device.close()
asyncio.run(main())
""")
    assert found["rules"] == {"-4": 3, "-6": 3}
    assert found["routes"] == ["10.20.0.0/16", "fd20:20::/64"]
    assert found["link"] == [1280, True]
    assert found["changed"] == [["100.64.0.2", "198.18.0.1", "fd00:2021:1111::1"], ["10.20.0.0/16"]]
    assert "192.0.2.0/24" in found["link_routes"]  # type: ignore[operator]
    assert found["local"] == ["192.0.2.7"]
    assert found["after"] == [{"-4": 0, "-6": 0}, [], []]


def test_start_after_a_crash_clears_what_was_left_and_nothing_else() -> None:
    found = run("""
async def main():
    sh("ip", "rule", "add", "fwmark", "7", "lookup", "99", "priority", "50")
    device, crashed = TunDevice.open(), Netlink("tun-firezone")
    await crashed.start()
    await crashed.set_addresses(["100.64.0.1"])
    device.close()
    device, netlink = TunDevice.open(), Netlink("tun-firezone")
    await netlink.start()
    found["rules"] = rules()
    await netlink.set_addresses(["100.64.0.1"])
    found["again"] = rules()
    await netlink.stop()
    device.close()
asyncio.run(main())
""")
    assert found["rules"] == {"-4": 1, "-6": 0}
    assert found["again"] == {"-4": 4, "-6": 0}


def test_a_host_with_ipv6_switched_off_is_set_up_for_ipv4_without_warnings() -> None:
    found = run("""
import structlog
from pathlib import Path
for name in ("all", "default"):
    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
async def main():
    device, netlink = TunDevice.open(), Netlink("tun-firezone")
    with structlog.testing.capture_logs() as said:
        await netlink.start()
        await netlink.set_addresses(["100.64.0.1", "fd00:2021:1111::1"])
        await netlink.set_routes(NETWORKS)
        found["rules"], found["routes"] = rules(), routes("0x2021fd00")
        await netlink.stop()
    found["loud"] = [entry for entry in said if entry["log_level"] != "debug"]
    device.close()
asyncio.run(main())
""")
    assert found["rules"] == {"-4": 3, "-6": 0}
    assert found["routes"] == ["10.20.0.0/16"]
    assert found["loud"] == []


def test_second_program_is_told_that_the_device_is_taken() -> None:
    found = run("""
device = TunDevice.open()
try:
    TunDevice.open()
except ConfigError as error:
    found["error"] = str(error)
""")
    assert "another client or gateway is already running" in str(found["error"])


def test_device_without_offload_works_and_says_so() -> None:
    found = run("""
device = TunDevice.open(offload=False)
found["offload"], found["coalesce"] = device.offload, device.coalesce
sh("ip", "addr", "add", "10.9.0.1/24", "dev", "tun-firezone"); sh("ip", "link", "set", "tun-firezone", "up")
subprocess.Popen(["ping", "-c", "1", "-W", "1", "10.9.0.2"], stdout=subprocess.DEVNULL)
import time
for _ in range(200):
    device.fill(8)
    if device.ring.ready():
        break
    time.sleep(0.01)
slot = device.ring.tail()
found["packet"] = [int(device.ring.length[slot]), int(device.ring.slab[slot, 10]) >> 4]
""")
    assert (found["offload"], found["coalesce"]) == ("none", False)
    assert found["packet"][1] in (4, 6)  # type: ignore[index]


def test_masquerade_is_set_up_once_and_taken_down() -> None:
    found = run("""
sh("nft", "add", "table", "inet", "others")
for _ in range(2):
    set_up_forwarding("tun-firezone", outgoing=["e*"])
ruleset = sh("nft", "list", "ruleset")
found["masquerades"] = ruleset.count("masquerade")
found["forward"] = sh("cat", "/proc/sys/net/ipv4/ip_forward").strip()
take_down_forwarding("tun-firezone")
found["after"] = sh("nft", "list", "ruleset").split()
""")
    assert found["masquerades"] == 2
    assert found["forward"] == "1"
    assert found["after"] == ["table", "inet", "others", "{", "}"]


def test_a_burst_of_changes_is_told_a_few_times_at_most() -> None:
    found = run("""
async def main():
    calls = []
    await asyncio.sleep(2.0)  # The kernel is still checking the IPv6 addresses of links just made.
    changes = NetworkChanges(lambda: calls.append(1))
    sh("ip", "addr", "add", "192.0.2.8/24", "dev", "lan")
    sh("ip", "link", "set", "other", "mtu", "1400")
    sh("sh", "-c", "seq -f 'link set other mtu %g' 1300 1329 | ip -batch -")
    await asyncio.sleep(2.0)
    found["calls"] = len(calls)
    changes.close()
asyncio.run(main())
""")
    assert found["calls"] in (1, 2)


def test_refused_netlink_changes_are_an_error_that_names_the_device() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + """
async def main():
    netlink = Netlink("no-such-device")
    await netlink.start()
    try:
        await netlink.set_addresses(["100.64.0.1"])
    except ConfigError as error:
        print(error)
    await netlink.stop()
asyncio.run(main())
"""],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "no-such-device is gone" in done.stdout


def test_copying_link_routes_does_not_cause_the_next_look() -> None:
    """Both ends of the veth pair have fe80::/64 with one metric: copies of them must not replace each other for ever."""
    found = run("""
async def main():
    device, netlink = TunDevice.open(), Netlink("tun-firezone")
    await netlink.start()
    await netlink.set_addresses(["100.64.0.1", "fd00:2021:1111::1"])
    looks = []
    def look():
        looks.append(asyncio.ensure_future(netlink.sync_link_routes()))
    changes = NetworkChanges(look)
    await asyncio.sleep(4.0)  # Addresses of the links settle.
    before = len(looks)
    await asyncio.sleep(3.0)
    found["looks"] = len(looks) - before
    changes.close()
    await netlink.stop()
    device.close()
asyncio.run(main())
""")
    assert found["looks"] == 0


def test_the_way_out_is_the_kernels_own_choice_past_the_tunnel() -> None:
    found = run("""
async def main():
    device, netlink = TunDevice.open(), Netlink("tun-firezone")
    await netlink.start()
    await netlink.set_addresses(["100.64.0.1"])
    await netlink.set_routes([ipaddress.ip_network("0.0.0.0/0")])  # The Internet resource must not be taken for a way out.

    async def look(portal=None):
        view = await netlink.view(portal)
        way = view.ipv4
        return [list(view.addresses), None if way is None else [way.gateway, way.source], view.ipv6 is None]

    found["closed"] = await look()
    found["portal"] = await look("192.0.2.1")
    sh("ip", "route", "add", "default", "via", "192.0.2.1")
    found["open"] = await look()
    sh("ip", "route", "add", "default", "via", "192.0.2.2", "metric", "50")
    found["worse"] = await look()
    sh("ip", "route", "del", "default", "via", "192.0.2.1")
    sh("ip", "-6", "addr", "add", "2001:db8:7::7/64", "dev", "lan", "nodad")
    sh("ip", "-6", "route", "add", "default", "via", "2001:db8:7::1")
    view = await netlink.view()
    found["ipv6"] = [view.ipv4.gateway, view.ipv6.gateway, view.ipv6.source]
    sh("ip", "link", "set", "other", "down")
    await asyncio.sleep(0.2)
    found["unplugged"] = await look()
    await netlink.stop()
asyncio.run(main())
""")
    assert found["closed"] == [["192.0.2.7"], None, True]
    assert found["portal"] == [["192.0.2.7"], [None, "192.0.2.7"], True]
    assert found["open"] == [["192.0.2.7"], ["192.0.2.1", "192.0.2.7"], True]
    assert found["worse"] == found["open"]
    assert found["ipv6"] == ["192.0.2.2", None, "2001:db8:7::/64"]
    assert found["unplugged"] == [["192.0.2.7", "2001:db8:7::7"], None, True]
