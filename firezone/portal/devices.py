"""Subcommands for devices: what has logged in, kept in the portal's state. They work whether the portal runs or not."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

import click

from firezone.base.errors import ConfigError
from firezone.portal.commands import Where, as_json_option, show, with_files

COLUMNS = ("name", "role", "owner", "state", "ipv4", "ipv6", "version", "last_seen", "id")


@click.group()
def device() -> None:
    """Devices: clients and gateways that have logged in.

    A DEVICE is named by its name, or by its id or the beginning of that where names are the same. The portal that runs is asked
    by a socket beside its state file; while none runs, the state file itself is read and changed.
    """


@device.command("list")
@as_json_option
@with_files
def list_devices(where: Where, as_json: bool) -> None:
    """List devices with their addresses in the tunnel."""
    rows = [
        {**found, "state": "disabled" if found["is_disabled"] else "online" if found["is_online"] else "offline",
         "last_seen": datetime.fromtimestamp(found["last_seen"], UTC).isoformat()}
        for found in _devices(where)
    ]  # fmt: skip
    show(sorted(rows, key=lambda row: (row["role"], row["name"])), COLUMNS, as_json, "No device has logged in yet.")


@device.command("disable")
@click.argument("name", metavar="DEVICE")
@with_files
def disable(where: Where, name: str) -> None:
    """Keep a device out, whatever its token: its connection and what it was granted end at once."""
    _act(where, "disable", name, "is disabled")


@device.command("enable")
@click.argument("name", metavar="DEVICE")
@with_files
def enable(where: Where, name: str) -> None:
    """Let a disabled device in again."""
    _act(where, "enable", name, "may log in again")


@device.command("remove")
@click.argument("name", metavar="DEVICE")
@with_files
def remove(where: Where, name: str) -> None:
    """Forget a device with its addresses and what it was granted. With its token it can come again, as a new one."""
    _act(where, "remove", name, "is forgotten")


def _act(where: Where, command: str, name: str, done: str) -> None:
    found = _find(_devices(where), name)
    _carry_out(where, {"command": command, "device": found["id"]})
    click.echo(f"The {found['role']} {found['name']!r} ({found['id']}) {done}.")


def _find(devices: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Returns the one device that is meant. Raises ConfigError naming those that could be."""
    exact = [found for found in devices if name in (found["id"], found["name"])]
    meant = exact or [found for found in devices if len(name) >= 4 and found["id"].startswith(name.lower())]
    if len(meant) == 1:
        return meant[0]
    if not meant:
        known = ", ".join(repr(found["name"]) for found in devices) or "none"
        raise ConfigError(f"There is no device {name!r} (known: {known}).")
    choices = ", ".join(f"{found['id']} ({found['role']} of {found['owner'] or 'nobody'})" for found in meant)
    raise ConfigError(f"{len(meant)} devices are called {name!r}; say which by its id: {choices}.")


def _devices(where: Where) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _carry_out(where, {"command": "devices"})["devices"]
    return found


def _carry_out(where: Where, request: dict[str, Any]) -> dict[str, Any]:
    from firezone.loop.portal_control import ask, offline

    answer = ask(where.state, request)
    return offline(where.config, where.state, request, _SystemRng()) if answer is None else answer


class _SystemRng:
    def bytes(self, count: int) -> bytes:
        return os.urandom(count)
