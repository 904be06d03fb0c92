"""The control packets about names: `gateway` 4, with its vector."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.base.errors import WireError
from firezone.base.ids import ResourceId
from firezone.proto.gateway.names import read_proxies
from firezone.wire.control import (
    ControlEvent,
    decode_assigned_ips,
    decode_control,
    decode_domain_status,
    encode_assigned_ips,
    encode_domain_status,
)

RESOURCE = ResourceId("00000000-0000-0000-0000-00000000002a")
STATUS = bytes.fromhex("600000000066ff00" + "00" * 32 + "0100000000000000") + (
    b'{"resource":"00000000-0000-0000-0000-00000000002a","domain":"app.corp.test","status":"Active"}'
)


def test_a_status_is_the_recorded_packet() -> None:
    assert encode_domain_status(RESOURCE, "app.corp.test.", is_active=True) == STATUS
    assert len(STATUS) == 142
    control = decode_control(STATUS)
    assert control.event == ControlEvent.DOMAIN_STATUS
    assert decode_domain_status(control.body).is_active


def test_an_unknown_status_means_inactive() -> None:
    body = STATUS[48:].replace(b"Active", b"Perhaps")
    assert not decode_domain_status(body).is_active
    assert not decode_domain_status(decode_control(encode_domain_status(RESOURCE, "a", is_active=False)).body).is_active


def test_assigned_addresses_come_back_as_they_went() -> None:
    proxies = read_proxies(["100.96.0.1", "fd00:2021:1111:8000::"])
    assert proxies is not None
    told = decode_assigned_ips(decode_control(encode_assigned_ips(RESOURCE, "app.corp.test", proxies)).body)
    assert (told.resource, told.domain, read_proxies(told.proxy_ips)) == (RESOURCE, "app.corp.test", proxies)


def test_members_nobody_knows_are_ignored_and_ids_are_normalised() -> None:
    told = decode_assigned_ips(b'{"x":1,"resource":"{00000000-0000-0000-0000-00000000002A}","domain":"a","proxy_ips":[]}')
    assert told.resource == RESOURCE


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"null", b'{"resource":"x","domain":"a","proxy_ips":[]}', b"\xff", b"[" * 9999]
)
def test_garbage_is_a_wire_error(body: bytes) -> None:
    for decode in (decode_assigned_ips, decode_domain_status):
        with pytest.raises(WireError):
            decode(body)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_value_or_a_wire_error(body: bytes) -> None:
    with contextlib.suppress(WireError):
        decode_assigned_ips(body)
