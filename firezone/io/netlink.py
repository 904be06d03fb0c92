"""Addresses, routes and rules of the tunnel device, by netlink, reconciled against what is wanted.

pyroute2 wants a thread without a running event loop (it drives one of its own), so every operation runs in one worker thread;
that also serialises them, as the kernel allows one dump per socket. Nothing is deleted wholesale: what others put on the host
stays, what is ours and no longer wanted goes.

Layout (per family): priority 100 → table 0x2021fd00, routes of resources; 200 → 0x2021fd01, copies of link-scope routes, so that
the local network stays reachable; 300 → 0x2021fd02, default routes of the Internet resource. All rules carry `not fwmark`, so our
own marked sockets go straight to the main table.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import structlog
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from firezone.base.errors import ConfigError
from firezone.base.limits import MAX_PACKET_SIZE
from firezone.base.network_view import NetworkView, WayOut
from firezone.io.threads import name_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from firezone.base.net import Address, Network

log = structlog.get_logger(__name__)

FIREZONE_MARK = 0xFD002021
ROUTES_TABLE, LINK_TABLE, DEFAULT_TABLE = 0x2021FD00, 0x2021FD01, 0x2021FD02
RULES = ((100, ROUTES_TABLE), (200, LINK_TABLE), (300, DEFAULT_TABLE))
QUEUE_LENGTH = 500
"""Packets the device may hold for us. The kernel's default for TUN; other lengths have not been measured."""

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_FIB_RULE_INVERT = 2
_PROTOCOL_KERNEL, _PROTOCOL_STATIC = 2, 4
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_HOST = 0, 253, 254
_MAIN_TABLE = 254
_ADDR_GEN_NONE = 1
_IFA_F_TENTATIVE, _IFA_F_DADFAILED, _IFA_F_NODAD = 0x40, 0x08, 0x02
_FOREVER = 0xFFFFFFFF
_MISSING = {errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL}
_PROBES = {socket.AF_INET: "8.8.8.8", socket.AF_INET6: "2001:4860:4860::8888"}
"""Addresses that only a default route leads to. The kernel is asked how it would reach them; nothing is sent."""
_NO_FAMILY = {errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES}
"""The host has no such family. EACCES: IPv6 is switched off by sysctl; missing rights are EPERM."""


class Netlink:
    """The tunnel's side of the host's network configuration. All methods but `close` are coroutines for the main loop."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="netlink", initializer=name_thread, initargs=("netlink",))
        self._route: IPRoute | None = None
        self._routes: set[Network] = set()
        self._addresses: set[Any] = set()

    async def start(self) -> None:
        """Opens netlink and clears what an earlier run of ours left behind."""
        await self._run(self._open)
        await self._run(self._clear_leftovers)

    async def set_addresses(self, addresses: Iterable[str], sentinels: Iterable[str] = ()) -> None:
        """Gives the device these addresses (as /32 and /128), MTU and queue length, sets it up and adds the rules.

        `sentinels` are addresses to be asked at, which the kernel never chooses as the source of anything.

        Addresses of an earlier call that are no longer wanted go; what others gave the device stays.

        Raises: ConfigError when no address could be set.
        """
        await self._run(self._set_addresses, list(addresses), list(sentinels))

    async def set_routes(self, networks: Iterable[Network]) -> None:
        """Routes exactly these networks to the device. All are set again, since the host may have lost some while roaming."""
        await self._run(self._set_routes, set(networks))

    async def sync_link_routes(self) -> None:
        """Copies the main table's link-scope routes, so that the local network beats the Internet resource."""
        await self._run(self._sync_link_routes)

    async def local_addresses(self) -> list[str]:
        """Returns the addresses that peers could reach us at: global, usable, not loopback and not the tunnel's own."""
        found: list[str] = await self._run(self._local_addresses)
        return found

    async def view(self, portal: str | None = None) -> NetworkView:
        """Returns the local addresses and, per family, how our own packets leave for the Internet.

        `portal` is the address of the portal: where no default route is, as in closed networks, the way to it is the way out.
        """
        found: NetworkView = await self._run(self._view, portal)
        return found

    async def stop(self) -> None:
        """Removes our rules and routes and ends the thread."""
        await self._run(self._clear_leftovers)
        await self._run(self._close)
        self._executor.shutdown(wait=True)

    async def _run(self, call: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call, *args)

    # in the thread

    def _open(self) -> None:
        self._route = IPRoute()

    def _close(self) -> None:
        if self._route is not None:
            self._route.close()
            self._route = None

    @property
    def _ip(self) -> IPRoute:
        assert self._route is not None, "start() comes first"
        return self._route

    def _index(self) -> int:
        found = self._ip.link_lookup(ifname=self.device)
        if not found:
            raise ConfigError(f"The interface {self.device} is gone.")
        return int(found[0])

    def _set_addresses(self, addresses: list[str], sentinels: list[str]) -> None:
        index = self._index()
        no_link_local = {"attrs": [["AF_INET6", {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_NONE]]}]]}
        self._try("set addr_gen_mode", self._ip.link, "set", index=index, IFLA_AF_SPEC=no_link_local)
        wanted = {ipaddress.ip_interface(address).ip for address in addresses}
        asked_at = [ipaddress.ip_address(address) for address in sentinels]
        present = {
            ipaddress.ip_address(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))
            for message in self._ip.get_addr(index=index)
        }
        self._ip.link("set", index=index, mtu=MAX_PACKET_SIZE, txqlen=QUEUE_LENGTH)
        places: dict[Address, dict[str, Any]] = {address: {} for address in wanted} | {
            address: _never_a_source(address) for address in asked_at
        }
        working = []
        for address in sorted(places, key=lambda address: address.version):
            place = {"index": index, "address": str(address), "prefixlen": address.max_prefixlen, **places[address]}
            if address in present or self._try("add address", self._ip.addr, "add", **place):
                working.append(address)
        # Only now: with its last address a device would lose its routes too.
        for address in sorted(self._addresses - places.keys(), key=str):
            self._try("remove address", self._ip.addr, "del", index=index, address=str(address), prefixlen=address.max_prefixlen)
        self._addresses = set(working)
        self._ip.link("set", index=index, state="up")
        if wanted and not wanted.intersection(working):
            raise ConfigError(f"No address could be given to {self.device}: neither IPv4 nor IPv6 is available.")
        for version in sorted({address.version for address in wanted.intersection(working)}):
            self._add_rules(socket.AF_INET if version == 4 else socket.AF_INET6)

    def _add_rules(self, family: int) -> None:
        for priority, table in RULES:
            self._try(
                "add rule",
                self._ip.rule,
                "add",
                family=family,
                priority=priority,
                table=table,
                fwmark=FIREZONE_MARK,
                flags=_FIB_RULE_INVERT,
                protocol=_PROTOCOL_KERNEL,
                action="FR_ACT_TO_TBL",
            )

    def _set_routes(self, wanted: set[Network]) -> None:
        index = self._index()
        for network in sorted(self._routes - wanted, key=str):
            self._try("remove route", self._ip.route, "del", **_route(network, index))
        for network in sorted(wanted, key=str):
            self._try("add route", self._ip.route, "replace", **_route(network, index))
        self._routes = set(wanted)

    def _sync_link_routes(self) -> None:
        own = self._index()
        up = {link["index"] for link in self._ip.get_links() if link.get_attr("IFLA_OPERSTATE") in ("UP", "UNKNOWN")}
        for family in _FAMILIES:
            wanted = self._link_routes(family, _MAIN_TABLE)
            # Only what is missing: even a replacement by the same is an event, and the event would bring us here again.
            # By destination and metric, which make a route: two devices with the same would take it from each other for ever.
            present = {(destination, metric) for destination, _, metric, _ in self._link_routes(family, LINK_TABLE)}
            for destination, device, metric, scope in sorted(wanted):
                if device in up and device != own and (destination, metric) not in present:
                    present.add((destination, metric))
                    self._try(
                        "copy link route",
                        self._ip.route,
                        "replace",
                        dst=destination,
                        oif=device,
                        priority=metric,
                        table=LINK_TABLE,
                        proto=_PROTOCOL_STATIC,
                        scope=scope,
                        family=family,
                    )

    def _link_routes(self, family: int, table: int) -> set[tuple[str, int, int, int]]:
        """Returns destination, device, metric and scope of the routes that need no gateway."""
        found = set()
        for message in self._ip.get_routes(family=family, table=table):
            destination, device = message.get_attr("RTA_DST"), message.get_attr("RTA_OIF")
            is_link = message["scope"] == _SCOPE_LINK or (family == socket.AF_INET6 and not message.get_attr("RTA_GATEWAY"))
            if destination is not None and device is not None and is_link:
                metric = int(message.get_attr("RTA_PRIORITY") or 0)
                found.add((f"{destination}/{message['dst_len']}", int(device), metric, int(message["scope"])))
        return found

    def _local_addresses(self) -> list[str]:
        up = {link["index"]: link.get_attr("IFLA_IFNAME") for link in self._ip.get_links() if link["flags"] & 1}
        found = []
        for message in self._ip.get_addr():
            name = up.get(message["index"])
            flags = message.get_attr("IFA_FLAGS") or 0
            if name in (None, "lo", self.device) or flags & (_IFA_F_TENTATIVE | _IFA_F_DADFAILED):
                continue
            address = ipaddress.ip_address(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))
            if not address.is_loopback and not address.is_link_local:
                found.append(str(address))
        return found

    def _view(self, portal: str | None) -> NetworkView:
        ways: dict[socket.AddressFamily, WayOut | None] = {
            family: self._way_out(family, probe) for family, probe in _PROBES.items()
        }
        if portal is not None and not any(ways.values()):
            family = socket.AF_INET6 if ":" in portal else socket.AF_INET
            ways[family] = self._way_out(family, portal)
        return NetworkView(tuple(self._local_addresses()), ways[socket.AF_INET], ways[socket.AF_INET6])

    def _way_out(self, family: socket.AddressFamily, destination: str) -> WayOut | None:
        """Asks as a socket with our mark would be routed, past the tunnel."""
        try:
            (route,) = self._ip.route("get", family=family, dst=destination, mark=FIREZONE_MARK)
            device, source = route.get_attr("RTA_OIF"), route.get_attr("RTA_PREFSRC")
            if device is None or source is None:
                return None
            (link,) = self._ip.get_links(device)
        except (NetlinkError, ValueError):
            return None  # No route, no such family, or a device that has just gone.
        if link.get_attr("IFLA_OPERSTATE") not in ("UP", "UNKNOWN"):
            return None
        if family == socket.AF_INET6:
            return WayOut(int(device), None, str(ipaddress.ip_network(f"{source}/64", strict=False)))
        return WayOut(int(device), route.get_attr("RTA_GATEWAY"), str(source))

    def _clear_leftovers(self) -> None:
        """Deletes rules that carry our mark and table, and every route in our tables."""
        tables = {table for _, table in RULES}
        for family in _FAMILIES:
            for rule in self._ip.get_rules(family=family):
                if rule.get_attr("FRA_FWMARK") == FIREZONE_MARK and rule.get_attr("FRA_TABLE") in tables:
                    self._try(
                        "remove rule",
                        self._ip.rule,
                        "del",
                        family=family,
                        priority=rule.get_attr("FRA_PRIORITY"),
                        table=rule.get_attr("FRA_TABLE"),
                        fwmark=FIREZONE_MARK,
                        flags=rule["flags"],
                    )
            for table in sorted(tables):
                self._try("flush routes", self._ip.flush_routes, table=table, family=family)
        self._routes = set()

    def _try(self, what: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
        """Does one change. What is there already or gone already is fine; a missing family is worth a DEBUG line."""
        try:
            call(*args, **kwargs)
        except NetlinkError as error:
            if error.code == errno.EEXIST or ("remove" in what and error.code in _MISSING):
                return True
            level = log.debug if error.code in _NO_FAMILY else log.warning
            level("network configuration refused", what=what, error=str(error))
            return False
        return True


def _never_a_source(address: Address) -> dict[str, Any]:
    """Host scope is too narrow for packets that leave; IPv6 addresses past their preferred life are the last choice (RFC 6724)."""
    if address.version == 4:
        return {"scope": _SCOPE_HOST}
    return {"preferred_lft": 0, "valid_lft": _FOREVER, "flags": _IFA_F_NODAD}


def _route(network: Network, index: int) -> dict[str, Any]:
    table = DEFAULT_TABLE if network.prefixlen == 0 else ROUTES_TABLE
    return {
        "dst": str(network), "oif": index, "table": table, "proto": _PROTOCOL_STATIC, "scope": _SCOPE_UNIVERSE,
        "family": socket.AF_INET if network.version == 4 else socket.AF_INET6,
    }  # fmt: skip
