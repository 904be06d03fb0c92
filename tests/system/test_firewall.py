"""The gateway's nftables rules in a namespace of their own, beside those of others."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.harness.host import script
from tests.harness.namespaces import Namespace

pytestmark = [pytest.mark.root, pytest.mark.skipif(shutil.which("nft") is None, reason="machine lacks nft")]


def test_the_firewall_table_is_ours_alone() -> None:
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
        assert here.run("nft", "list", "ruleset").stdout.count("masquerade") == 4  # two devices, two families
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
