"""The portal's memory: devices and grants in one SQLite file beside the policy.

Committed data survives the death of the process and of the machine (write-ahead log, synced on commit). The file is locked
while a portal runs, so that two portals never share one.
"""

from __future__ import annotations

import os
import sqlite3
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from firezone.base.errors import ConfigError
from firezone.base.ids import ResourceId
from firezone.base.secret import SecretBytes
from firezone.proto.portal.model import Device, Grant, Role
from firezone.wire.portal.shared import PublicKey

SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE device (
    id TEXT PRIMARY KEY, role TEXT NOT NULL, owner_id TEXT NOT NULL, external_id TEXT NOT NULL, name TEXT NOT NULL,
    public_key BLOB NOT NULL, psk_base BLOB NOT NULL, ipv4 TEXT NOT NULL UNIQUE, ipv6 TEXT NOT NULL UNIQUE,
    version TEXT NOT NULL, remote_ip TEXT NOT NULL, last_seen INTEGER NOT NULL,
    UNIQUE (role, owner_id, external_id)
) STRICT;
CREATE TABLE flow (
    client_id TEXT NOT NULL, resource_id TEXT NOT NULL, gateway_id TEXT NOT NULL,
    token_id TEXT NOT NULL, address TEXT NOT NULL, expires_at INTEGER,
    PRIMARY KEY (client_id, resource_id, gateway_id)
) STRICT;
"""
"""As the first version had it; a new file goes the same way as an old one."""
MIGRATIONS = {1: "ALTER TABLE device ADD COLUMN is_disabled INTEGER NOT NULL DEFAULT 0;"}
"""How a file of one version becomes one of the next."""


class SqliteStore:
    """A `Store` in one file. Holds key material: only its owner can read it."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file. Raises ConfigError when it cannot be used."""
        self._path = path
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, timeout=1.0)
            for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
                self._db.execute(f"PRAGMA {pragma}")
            self._migrate()
        except sqlite3.OperationalError as error:
            hint = "another portal is running on it" if "locked" in str(error) else str(error)
            raise ConfigError(f"The state file {path} cannot be used: {hint}.") from error
        except (OSError, sqlite3.DatabaseError) as error:
            raise ConfigError(f"The state file {path} cannot be used: {error}.") from error

    def load(self) -> tuple[list[Device], list[Grant]]:
        devices = [
            Device(
                row[0], Role(row[1]), row[2], row[3], row[4], PublicKey(row[5]), SecretBytes(row[6]), IPv4Address(row[7]),
                IPv6Address(row[8]), row[9], row[10], row[11], bool(row[12]),
            )
            for row in self._db.execute("SELECT * FROM device")
        ]  # fmt: skip
        grants = [
            Grant(row[0], ResourceId(row[1]), row[2], row[3], row[4], row[5]) for row in self._db.execute("SELECT * FROM flow")
        ]
        return devices, grants

    def put_device(self, device: Device) -> None:
        values = (
            device.id, device.role.value, device.owner_id, device.external_id, device.name, bytes(device.public_key),
            device.psk_base.reveal(), str(device.ipv4), str(device.ipv6), device.version, device.remote_ip, device.last_seen,
            int(device.is_disabled),
        )  # fmt: skip
        self._write("INSERT OR REPLACE INTO device VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def remove_device(self, device_id: str) -> None:
        self._write("DELETE FROM device WHERE id = ?", (device_id,))

    def put_grant(self, grant: Grant) -> None:
        values = (grant.client_id, grant.resource_id, grant.gateway_id, grant.token_id, grant.address, grant.expires_at)
        self._write("INSERT OR REPLACE INTO flow VALUES (?, ?, ?, ?, ?, ?)", values)

    def remove_grant(self, grant: Grant) -> None:
        self._write("DELETE FROM flow WHERE client_id = ? AND resource_id = ? AND gateway_id = ?", grant.key)

    def commit(self) -> None:
        if self._db.in_transaction:
            self._db.execute("COMMIT")

    def close(self) -> None:
        self.commit()
        self._db.close()

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
        self._db.execute(statement, values)

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = 1; COMMIT;")
            version = 1
        while version in MIGRATIONS:
            self._db.executescript(f"BEGIN; {MIGRATIONS[version]} PRAGMA user_version = {version + 1}; COMMIT;")
            version += 1
        if version != SCHEMA_VERSION:
            raise ConfigError(f"The state file {self._path} was written by another version of the portal ({version}).")
