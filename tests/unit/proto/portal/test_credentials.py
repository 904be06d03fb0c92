"""The vectors of the protocol for what a client and a gateway share."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from firezone.base.rng import SeededRng
from firezone.base.secret import SecretBytes, SecretText
from firezone.proto.portal.credentials import ADDRESSES, free_offset, pair_credentials
from firezone.proto.portal.dialect import parse_version, version_of
from firezone.proto.portal.model import Device, Role
from firezone.proto.portal.presence import is_compatible
from firezone.wire.portal.shared import PublicKey, UnixSeconds


def device(role: Role, device_id: str, key: PublicKey, base: bytes) -> Device:
    addresses = IPv4Address("100.64.0.9"), IPv6Address("fd00:2021:1111::9")
    return Device(device_id, role, "owner", "ext", "n", key, SecretBytes(base), *addresses, "1.5.4", "192.0.2.1", UnixSeconds(0))


def test_the_vector_of_the_protocol() -> None:
    client = device(Role.CLIENT, "0b7f1d52-5f0e-4c77-9d0a-3a9c8e5f1a01", PublicKey(bytes(range(32))), b"\x11" * 32)
    key = PublicKey.from_text("ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=")
    gateway = device(Role.GATEWAY, "d2c4e6a8-1b3d-4f5a-8c7e-9f0a1b2c3d04", key, b"\x22" * 32)
    shared = pair_credentials(client, gateway)
    assert PublicKey(shared.preshared_key.reveal()).to_text() == "mC9u2koxhOYOTnXtj+z5ustnVFawT9Ts4lRyJsEIPTo="
    assert (shared.client_ice.username, shared.client_ice.password) == ("cip5", SecretText("poeo4p3rpgtzk6khutnzjv"))
    assert (shared.gateway_ice.username, shared.gateway_ice.password) == ("lphb", SecretText("l2gzcr3x7mmzbffacfx2ma"))
    assert "poeo4" not in repr(shared)


def test_offsets_are_free_and_inside_the_pool() -> None:
    rng = SeededRng(7)
    assert all(2 <= free_offset(rng, set()) <= ADDRESSES - 2 for _ in range(1000))
    everything = set(range(2, ADDRESSES - 1))
    assert free_offset(rng, everything - {2}) == 2
    assert free_offset(rng, everything - {ADDRESSES - 2}) == ADDRESSES - 2
    with pytest.raises(ValueError, match="taken"):
        free_offset(rng, everything)


@pytest.mark.parametrize(
    ("agent", "version"),
    [
        ("Ubuntu/24.4.0 connlib/1.5.4 (x86_64; 6.8.0-45-generic)", "1.5.4"),
        ("Mac OS/15 connlib/1.5.4", "1.5.4"),
        ("Debian/12 headless-client/1.5.12", "1.5.12"),
        ("relay/0.1.0", "0.1.0"),
        ("curl/8.0", None),
        ("", None),
    ],
)
def test_the_version_is_read_from_the_user_agent(agent: str, version: str | None) -> None:
    assert version_of(agent) == version


@pytest.mark.parametrize(
    ("client", "gateway", "fits"),
    [("1.5.4", "1.4.0", True), ("1.5.4", "1.6.9", True), ("1.5.4", "1.3.9", False), ("1.5.4", "1.7.0", False),
     ("1.5.4", "2.5.0", False), ("1.0.3", "1.0.0", True), ("1.5", "1.5.0", False), ("x", "1.5.0", False)],
)  # fmt: skip
def test_the_version_window(client: str, gateway: str, fits: bool) -> None:
    assert is_compatible(parse_version(client), parse_version(gateway)) is fits
