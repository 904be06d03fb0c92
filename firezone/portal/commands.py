"""The subcommands that change a policy file or a portal's devices: add, list, disable, enable, remove.

What the administrator decides is in the policy file and is edited there; what devices have told the portal is in its state, and
is changed by the portal that runs or, if none does, in the state file. Heavy imports wait until they are needed.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from firezone.base.errors import ConfigError

if TYPE_CHECKING:
    from firezone.portal.policy_edit import PolicyEdit

DEFAULT_CONFIG = "policy.toml"


@dataclass(frozen=True, slots=True)
class Where:
    """The files of the portal that is meant."""

    config: Path
    state: Path


def with_files(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command --config and --state, which may also stand before it, and passes them as `where`."""

    def run(context: click.Context, config: Path | None, state: Path | None, **options: Any) -> None:
        parent = context.find_root().params
        config = config or parent.get("config") or Path(DEFAULT_CONFIG)
        where = Where(config, state or parent.get("state") or config.with_suffix(".db"))
        try:
            command(where, **options)
        except ConfigError as error:
            fail(error)

    run.__doc__, run.__name__ = command.__doc__, command.__name__
    run.__click_params__ = list(getattr(command, "__click_params__", []))  # type: ignore[attr-defined]
    path = click.Path(path_type=Path, dir_okay=False)
    run = click.option("--state", default=None, type=path, help="State file.  [default: as before the command]")(run)
    run = click.option("-c", "--config", default=None, type=path, help="Policy file.  [default: as before the command]")(run)
    return click.pass_context(run)


def fail(error: ConfigError) -> NoReturn:
    """Says what is wrong, in one sentence, and ends the program."""
    click.echo(f"Error: {error}", err=True)
    sys.exit(1)


@contextlib.contextmanager
def editing(where: Where, done: str) -> Iterator[PolicyEdit]:
    """Lets the policy be edited; then says what was done and whether the portal that runs has taken it."""
    from firezone.loop.portal_control import ask
    from firezone.portal.policy_edit import edit_policy

    with edit_policy(where.config) as edit:
        yield edit
    answer = ask(where.state, {"command": "reload"})
    if answer is None:
        click.echo(f"{done} No portal is running on {where.state}; it counts from its next start.")
    else:
        taken = "The running portal has taken it." if answer.get("is_taken") else "The running portal has not: its log says why."
        click.echo(f"{done} {taken}")


def show(rows: Sequence[dict[str, Any]], columns: Sequence[str], as_json: bool, none: str) -> None:
    """Prints rows as a table, or as JSON for programs."""
    if as_json:
        click.echo(json.dumps(rows, indent=2, default=str))
        return
    if not rows:
        click.echo(none)
        return
    head = [column.upper().replace("_", " ") for column in columns]
    table = [head, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in table) for index in range(len(columns))]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def as_json_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def add_switches(group: click.Group, kind: str) -> None:
    """Adds disable, enable and remove to the commands of a kind of table that has a name."""

    @click.argument("name")
    def disable(where: Where, name: str) -> None:
        _switch(where, kind, name, is_on=False)

    @click.argument("name")
    def enable(where: Where, name: str) -> None:
        _switch(where, kind, name, is_on=True)

    @click.argument("name")
    @click.option("--cascade", is_flag=True, help="Also remove what names it: its policies, tokens, memberships.")
    def remove(where: Where, name: str, cascade: bool) -> None:
        gone: list[str] = []
        with editing(where, f"Removed the {kind} {name!r}.") as edit:
            if kind == "policy":
                edit.remove(kind, edit.find_policy(name))
            else:
                gone = edit.remove_named(kind, name, cascade=cascade)
        if gone:
            click.echo(f"With it went: {'; '.join(gone)}.")

    disable.__doc__ = f"Switch a {kind} off; it stays in the policy, and whoever is connected by it is told at once."
    enable.__doc__ = f"Switch a {kind} on again."
    remove.__doc__ = f"Take a {kind} out of the policy. Comments in the file stay."
    if kind == "policy":
        remove.__click_params__ = [p for p in remove.__click_params__ if p.name != "cascade"]  # type: ignore[attr-defined]
        inner = remove
        remove = _without_cascade(inner)
    if kind != "group":
        group.command("disable")(with_files(disable))
        group.command("enable")(with_files(enable))
    group.command("remove")(with_files(remove))


def state_of(table: dict[str, Any]) -> str:
    """Returns how a table stands, for people."""
    if table.get("revoked"):
        return "revoked"
    if not table.get("enabled", True):
        return "disabled"
    expires = table.get("expires")
    is_over = isinstance(expires, datetime) and expires.tzinfo is not None and expires <= datetime.now(expires.tzinfo)
    return "expired" if is_over else "on"


def moment(text: str | None, option: str) -> datetime | None:
    """Reads a date with time and zone. Raises ConfigError."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{option} {text!r} is no date and time, such as 2030-01-01T00:00:00Z.") from error
    if found.tzinfo is None:
        raise ConfigError(f"{option} {text!r} needs a zone, such as 2030-01-01T00:00:00Z or ...+02:00.")
    return found


def _switch(where: Where, kind: str, name: str, *, is_on: bool) -> None:
    with editing(where, f"{'Enabled' if is_on else 'Disabled'} the {kind} {name!r}.") as edit:
        index = edit.find_policy(name) if kind == "policy" else edit.find(kind, name)
        if edit.tables(kind)[index].get("enabled", True) != is_on:
            edit.set(kind, index, "enabled", is_on)


def _without_cascade(remove: Callable[..., None]) -> Callable[..., None]:
    def run(where: Where, name: str) -> None:
        remove(where, name, cascade=False)

    run.__doc__, run.__name__ = remove.__doc__, remove.__name__
    run.__click_params__ = remove.__click_params__  # type: ignore[attr-defined]
    return run


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) or "-" if isinstance(value, (list, tuple)) else str(value)
