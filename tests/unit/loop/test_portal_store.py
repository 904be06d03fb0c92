"""The state file: what is committed is there again, and a file of an older portal is taken over."""

from __future__ import annotations

import dataclasses
import sqlite3
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from firezone.base.errors import ConfigError
from firezone.base.ids import ResourceId
from firezone.base.secret import SecretBytes
from firezone.loop.portal_store import SCHEMA, SqliteStore
from firezone.proto.portal.model import Device, Grant, Role
from firezone.wire.portal.shared import PublicKey, UnixSeconds

DEVICE = Device(
    "d", Role.CLIENT, "o", "x", "n", PublicKey(b"\x01" * 32), SecretBytes(b"\x02" * 32), IPv4Address("100.64.0.5"),
    IPv6Address("fd00:2021:1111::5"), "1.5.4", "192.0.2.1", UnixSeconds(5),
)  # fmt: skip
GRANT = Grant("d", ResourceId("r"), "g", "t", "10.0.0.0/8", None)


def test_devices_and_grants_come_back(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db")
    disabled = dataclasses.replace(DEVICE, is_disabled=True)
    store.put_device(disabled)
    store.put_grant(GRANT)
    store.close()
    again = SqliteStore(tmp_path / "state.db")
    assert again.load() == ([disabled], [GRANT])
    again.remove_device("d")
    again.remove_grant(GRANT)
    again.close()
    assert SqliteStore(tmp_path / "state.db").load() == ([], [])


def test_a_file_of_the_first_version_is_taken_over_with_all_it_holds(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state.db") as old:
        old.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = 1; COMMIT;")
        old.execute(
            "INSERT INTO device VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ("d", "client", "o", "x", "n", b"\x01" * 32, b"\x02" * 32, "100.64.0.5", "fd00:2021:1111::5", "1.5.4", "192.0.2.1", 5),
        )
        old.execute("INSERT INTO flow VALUES ('d', 'r', 'g', 't', '10.0.0.0/8', NULL)")
    old.close()
    assert SqliteStore(tmp_path / "state.db").load() == ([DEVICE], [GRANT])


def test_a_file_of_a_later_version_is_refused_and_left(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state.db") as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(ConfigError, match=r"another version of the portal \(99\)"):
        SqliteStore(tmp_path / "state.db")
