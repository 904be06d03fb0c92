"""Where and as whom a device logs in."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from firezone.base.errors import ConfigError
from firezone.proto.phoenix.login import LoginUrl, external_id, user_agent
from firezone.wire.portal.shared import PublicKey

KEY = PublicKey(bytes(range(32)))
ID = "8C6D5A1E-33F0-4B58-9A1D-0F2E4C6B8A70"
HASHED = "bf93157db05892569c3151f42bbc415a467e25bf219186976941270d10688ee2"


def client_at(api_url: str, **more: Any) -> LoginUrl:
    return LoginUrl.client(api_url, "t", device_id="id", name="n", **more)


@pytest.mark.parametrize(
    ("api_url", "origin"),
    [
        ("https://p.test/base/", "wss://p.test:443/base/client/websocket"),
        ("https://p.test/base", "wss://p.test:443/base/client/websocket"),
        ("wss://p.test", "wss://p.test:443/client/websocket"),
        ("ws://p.test", "ws://p.test:443/client/websocket"),
        ("ws://p.test:80", "ws://p.test:443/client/websocket"),
        ("http://p.test:8081/?a=b", "ws://p.test:8081/client/websocket"),
        ("ws://[2001:db8::1]:8081", "ws://[2001:db8::1]:8081/client/websocket"),
    ],
)
def test_the_url_follows_the_rules_for_scheme_port_and_path(api_url: str, origin: str) -> None:
    assert client_at(api_url).origin == origin


@pytest.mark.parametrize("api_url", ["ftp://p.test", "p.test", "", "ws://", "ws://p.test:99999", "wss://user:pw@p.test"])
def test_what_is_no_portal_url_is_a_configuration_error(api_url: str) -> None:
    with pytest.raises(ConfigError):
        client_at(api_url)


def test_the_example_of_the_protocol_comes_out_byte_for_byte() -> None:
    url = LoginUrl.client(
        "ws://portal.test:8081", "nonce.SFMyNTY.g2gD", device_id=ID, name="laptop-7",
        device_serial="C0FFEE01", device_uuid="0b1e7d9c-55d2-4d0e-9b0a-8a7f0e3c1d22",
    )  # fmt: skip
    assert url.to_url(KEY) == (
        f"ws://portal.test:8081/client/websocket?token=nonce.SFMyNTY.g2gD&external_id={HASHED}&name=laptop-7"
        "&device_serial=C0FFEE01&device_uuid=0b1e7d9c-55d2-4d0e-9b0a-8a7f0e3c1d22"
        "&public_key=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8%3D"
    )


def test_keys_and_names_survive_the_query() -> None:
    key = PublicKey(b"\xfb\xff" * 16)
    url = LoginUrl.gateway("ws://p:1", "t", device_id="a b", name="ä+/=~*").to_url(key)
    assert dict(parse_qsl(urlsplit(url).query)) == {
        "token": "t", "external_id": "a b", "name": "ä+/=~*", "public_key": key.to_text(),
    }  # fmt: skip
    assert "%2B" in url
    assert "+/" not in url


def test_white_space_in_a_token_is_dropped_and_no_repr_shows_it() -> None:
    url = LoginUrl.relay("ws://p:1", " s3cret\n", name=None, ipv4="192.0.2.1", ipv6=None)
    assert url.to_url() == "ws://p:1/relay/websocket?token=s3cret&ipv4=192.0.2.1&port=3478"
    assert "s3cret" not in repr(url) + repr(url.parameters) + str(url)


@pytest.mark.parametrize("text", [ID, ID.lower(), "{" + ID + "}", "urn:uuid:" + ID, ID.replace("-", "")])
def test_a_uuid_is_hashed_as_given(text: str) -> None:
    assert len(external_id(text)) == 64
    assert external_id(ID) == HASHED


def test_any_other_id_is_sent_verbatim() -> None:
    assert external_id('{"id":"abc"}') == '{"id":"abc"}'
    assert external_id(HASHED) == HASHED


def test_the_user_agent_holds_printable_ascii_only() -> None:
    assert user_agent("Ubuntu", "24.4.0", "1.5.4", arch="x86_64", kernel="6.8.0-45-generic") == (
        "Ubuntu/24.4.0 connlib/1.5.4 (x86_64; 6.8.0-45-generic)"
    )
    assert user_agent("Debian", "12", "1.5.4", kernel="6.1-kernél\r\nX: y") == "Debian/12 connlib/1.5.4 (6.1-kernlX: y)"
    assert user_agent("iOS", "18", "1.5.0") == "iOS/18 connlib/1.5.0"


def test_the_path_says_which_generation_is_spoken() -> None:
    assert client_at("wss://p.test", generation=2).origin == "wss://p.test:443/client/v2/websocket"
    gateway = LoginUrl.gateway("wss://p.test/base", "t", device_id="id", name="n", generation=2)
    assert gateway.origin == "wss://p.test:443/base/gateway/v2/websocket"
