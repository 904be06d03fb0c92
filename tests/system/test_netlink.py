"""Addresses, routes, rules and the changes of a host's networks, by the real netlink in a namespace of its own."""

from __future__ import annotations

import pytest

from tests.harness.host import plug_in, script
from tests.harness.namespaces import Namespace, connect

pytestmark = pytest.mark.root


def test_addresses_and_routes_are_reconciled_and_others_are_left_alone() -> None:
    with Namespace() as here:
        here.run("ip", "rule", "add", "not", "fwmark", "0xfd002021", "lookup", "0x2021fd00", "protocol", "kernel")
        script(
            here,
            """
            def addresses():
                return {word for word in ip("-br", "address", "show", NAME).split() if "/" in word}

            async def main():
                device = TunDevice.open(NAME)
                for _ in range(2):  # a start after a start
                    netlink = Netlink(NAME)
                    await netlink.start()
                    assert rules() == {"-4": 0, "-6": 0}
                    for _ in range(3):
                        await netlink.set_addresses(["100.64.0.5", "fd00:2021:1111::5"])
                        await netlink.set_routes([net("10.0.0.0/8"), net("0.0.0.0/0"), net("2001:db8::/64")])
                    assert rules() == {"-4": 3, "-6": 3}, rules()
                assert addresses() == {"100.64.0.5/32", "fd00:2021:1111::5/128"}, addresses()
                assert "mtu 1280" in ip("link", "show", NAME)
                assert ",UP" in ip("link", "show", NAME)
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
                assert rules() == {"-4": 0, "-6": 0}
                assert routes("0x2021fd00") == routes("0x2021fd01") == routes("0x2021fd02") == []
                assert "lookup 77" in ip("rule")
                assert "198.51.100.0/24" in ip("route")
                device.close()

            asyncio.run(main())
            """,
        )


def test_start_after_a_crash_clears_what_was_left_and_nothing_else() -> None:
    with Namespace() as here:
        here.run("ip", "rule", "add", "fwmark", "7", "lookup", "99", "priority", "50")
        script(
            here,
            """
            async def main():
                device, crashed = TunDevice.open(NAME), Netlink(NAME)
                await crashed.start()
                await crashed.set_addresses(["100.64.0.1"])
                device.close()
                device, netlink = TunDevice.open(NAME), Netlink(NAME)
                await netlink.start()
                assert rules() == {"-4": 0, "-6": 0}
                await netlink.set_addresses(["100.64.0.1"])
                assert rules() == {"-4": 3, "-6": 0}
                assert "fwmark 0x7 lookup 99" in ip("rule")
                await netlink.stop()
                assert "fwmark 0x7 lookup 99" in ip("rule")
                device.close()

            asyncio.run(main())
            """,
        )


def test_a_host_with_ipv6_switched_off_is_set_up_for_ipv4_without_warnings() -> None:
    with Namespace() as here:
        script(
            here,
            """
            import structlog
            for where in ("all", "default"):
                open(f"/proc/sys/net/ipv6/conf/{where}/disable_ipv6", "w").write("1")

            async def main():
                with structlog.testing.capture_logs() as said, contextlib.closing(TunDevice.open(NAME)):
                    netlink = Netlink(NAME)
                    await netlink.start()
                    await netlink.set_addresses(["100.64.0.5", "fd00:2021:1111::5"])
                    await netlink.set_routes(NETWORKS)
                    assert "100.64.0.5/32" in ip("-br", "address", "show", NAME)
                    assert (rules(), routes("0x2021fd00")) == ({"-4": 3, "-6": 0}, ["10.20.0.0/16"])
                    await netlink.stop()
                assert not [entry for entry in said if entry["log_level"] != "debug"], said

            asyncio.run(main())
            """,
        )


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


def test_copies_of_like_link_routes_do_not_cause_the_next_look() -> None:
    """Both ends of the veth pair have fe80::/64 with one metric: copies of them must not replace each other for ever."""
    with Namespace() as here:
        plug_in(here)
        script(
            here,
            """
            async def main():
                device, netlink = TunDevice.open(NAME), Netlink(NAME)
                await netlink.start()
                await netlink.set_addresses(["100.64.0.1", "fd00:2021:1111::1"])
                looks = []
                def look():
                    looks.append(asyncio.ensure_future(netlink.sync_link_routes()))
                changes = NetworkChanges(look)
                await asyncio.sleep(4.0)  # Addresses of the links settle.
                before = len(looks)
                await asyncio.sleep(3.0)
                assert len(looks) == before
                changes.close()
                await netlink.stop()
                device.close()

            asyncio.run(main())
            """,
        )


def test_a_burst_of_changes_is_told_a_few_times_at_most() -> None:
    with Namespace() as here:
        plug_in(here)
        script(
            here,
            """
            async def main():
                calls = []
                await asyncio.sleep(2.0)  # The kernel is still checking the IPv6 addresses of links just made.
                changes = NetworkChanges(lambda: calls.append(1))
                ip("addr", "add", "192.0.2.8/24", "dev", "lan")
                subprocess.run(["sh", "-c", "seq -f 'link set other mtu %g' 1300 1329 | ip -batch -"], check=True)
                await asyncio.sleep(2.0)
                assert len(calls) in (1, 2), calls
                changes.close()

            asyncio.run(main())
            """,
        )


def test_the_way_out_is_the_kernels_own_choice_past_the_tunnel() -> None:
    with Namespace() as here:
        plug_in(here)
        script(
            here,
            """
            found = {}
            async def main():
                device, netlink = TunDevice.open(NAME), Netlink(NAME)
                await netlink.start()
                await netlink.set_addresses(["100.64.0.1"])
                await netlink.set_routes([net("0.0.0.0/0")])  # The Internet resource must not be taken for a way out.

                async def look(portal=None):
                    view = await netlink.view(portal)
                    way = view.ipv4
                    return [list(view.addresses), None if way is None else [way.gateway, way.source], view.ipv6 is None]

                found["closed"] = await look()
                found["portal"] = await look("192.0.2.1")
                ip("route", "add", "default", "via", "192.0.2.1")
                found["open"] = await look()
                ip("route", "add", "default", "via", "192.0.2.2", "metric", "50")
                found["worse"] = await look()
                ip("route", "del", "default", "via", "192.0.2.1")
                ip("-6", "addr", "add", "2001:db8:7::7/64", "dev", "lan", "nodad")
                ip("-6", "route", "add", "default", "via", "2001:db8:7::1")
                view = await netlink.view()
                found["ipv6"] = [view.ipv4.gateway, view.ipv6.gateway, view.ipv6.source]
                ip("link", "set", "other", "down")
                await asyncio.sleep(0.2)
                found["unplugged"] = await look()
                await netlink.stop()

            asyncio.run(main())
            assert found["closed"] == [["192.0.2.7"], None, True]
            assert found["portal"] == [["192.0.2.7"], [None, "192.0.2.7"], True]
            assert found["open"] == [["192.0.2.7"], ["192.0.2.1", "192.0.2.7"], True]
            assert found["worse"] == found["open"]
            assert found["ipv6"] == ["192.0.2.2", None, "2001:db8:7::/64"]
            assert found["unplugged"] == [["192.0.2.7", "2001:db8:7::7"], None, True]
            """,
        )


def test_refused_netlink_changes_are_an_error_that_names_the_device() -> None:
    with Namespace() as here:
        said = script(
            here,
            """
            async def main():
                netlink = Netlink("no-such-device")
                await netlink.start()
                try:
                    await netlink.set_addresses(["100.64.0.1"])
                except ConfigError as error:
                    print(error)
                await netlink.stop()

            asyncio.run(main())
            """,
        )
        assert "no-such-device is gone" in said
