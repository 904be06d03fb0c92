"""The portal's name without the machine's own resolver: `client` 15.1."""

from __future__ import annotations

import ipaddress
import socket

import dns.rcode
import pytest

from firezone.base.net import Address
from firezone.io import portal_names
from firezone.io.portal_names import PortalNames, sanitized
from tests.harness.name_server import NameServer, servers


def names_of(server: NameServer, *resolvers: str, hosts: dict[str, tuple[Address, ...]] | None = None) -> PortalNames:
    return PortalNames(lambda: resolvers or ["127.0.0.1"], mark=None, port=server.endpoint.port, hosts=lambda: hosts or {})


async def test_both_families_are_found_past_the_tunnel() -> None:
    async with servers() as (server,):
        server.zone = {("api.test", "A"): ["192.0.2.1"], ("api.test", "AAAA"): ["2001:db8::1"]}
        assert await names_of(server).resolve("API.test") == ["192.0.2.1", "2001:db8::1"]
        assert await names_of(server).resolve("192.0.2.9") == ["192.0.2.9"]
        assert await names_of(server).resolve("[2001:db8::9]") == ["2001:db8::9"]
        assert len(server.asked) == 2


async def test_the_hosts_file_comes_first() -> None:
    async with servers() as (server,):
        listed: dict[str, tuple[Address, ...]] = {"api.test": (ipaddress.ip_address("192.0.2.7"),)}
        assert await names_of(server, hosts=listed).resolve("api.test") == ["192.0.2.7"]
        assert server.asked == []


async def test_one_server_that_answers_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portal_names, "SERVER_TIMEOUT_S", 0.2)
    async with servers() as (server,):
        server.zone = {("api.test", "A"): ["192.0.2.1"]}
        # The second address has nobody who answers, the third is ours.
        assert await names_of(server, "127.0.0.1", "127.0.0.9", "100.100.111.1").resolve("api.test") == ["192.0.2.1"]


async def test_tcp_is_tried_when_datagrams_bring_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with servers() as (server,):
        server.zone = {("api.test", "A"): ["192.0.2.1"]}
        server.cuts_udp = True
        assert await names_of(server).resolve("api.test") == ["192.0.2.1"]
        assert [way for way, *_ in server.asked].count("tcp") == 2


async def test_a_name_that_no_server_knows_is_not_asked_again() -> None:
    async with servers() as (server,):
        server.zone = {("other.test", "A"): ["192.0.2.1"]}
        with pytest.raises(socket.gaierror) as caught:
            await names_of(server).resolve("api.test")
        assert caught.value.errno == socket.EAI_NONAME
        assert {way for way, *_ in server.asked} == {"udp"}


async def test_servers_that_fail_are_asked_over_tcp_too() -> None:
    async with servers() as (server,):
        server.rcode = dns.rcode.SERVFAIL
        with pytest.raises(socket.gaierror) as caught:
            await names_of(server).resolve("api.test")
        assert caught.value.errno == socket.EAI_AGAIN
        assert {way for way, *_ in server.asked} == {"udp", "tcp"}


async def test_without_a_server_there_is_nobody_to_ask() -> None:
    names = PortalNames(lambda: ["100.100.111.1", "fd00:2021:1111:8000:100:100:111:3"], mark=None, hosts=dict)
    with pytest.raises(socket.gaierror, match="no name server of the network is known"):
        await names.resolve("api.test")


def test_servers_are_kept_in_order_each_once_and_never_ours() -> None:
    found = sanitized(["192.0.2.53", "100.100.111.1", "junk", "192.0.2.53", "fd00:2021:1111:8000:100:100:111:ff", "::1"])
    assert found == ["192.0.2.53", "::1"]
