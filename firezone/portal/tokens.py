"""Subcommands for tokens: by them gateways, clients and relays log in. The policy has their hashes, only their files the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from firezone.base.errors import ConfigError
from firezone.portal.commands import Where, as_json_option, editing, moment, show, state_of, with_files
from firezone.portal.tables import token_file

OWNER = {"gateway": "site", "client": "user", "relay": None}


@click.group()
def token() -> None:
    """Tokens: what gateways, clients and relays log in with.

    \b
    python -m firezone.portal token add client --for ann --name "ann's phone"
    python -m firezone.portal token list
    python -m firezone.portal token revoke "ann's phone"

    `add` puts the text of a new token into a file and its hash into the policy. `gateway`, `client` and `relay` print the lines for
    the policy instead, for a portal on another machine.
    """


@token.command("add")
@click.argument("kind", type=click.Choice(list(OWNER)))
@click.option("--for", "owner", default=None, help="Site of a gateway, user of a client; a relay is for everybody.")
@click.option("--name", default=None, help="What the token is for.  [default: the name of its file]")
@click.option("--out", default=None, type=click.Path(path_type=Path, dir_okay=False), help="File for the token.")
@click.option("--expires", default=None, metavar="WHEN", help="End, such as 2030-01-01T00:00:00Z.")
@with_files
def add(where: Where, kind: str, owner: str | None, name: str | None, out: Path | None, expires: str | None) -> None:
    """Make a token and let it in."""
    from firezone.portal.starter import new_token
    from firezone.proto.portal.model import token_hash

    key = _owner_key(kind, owner)
    end = moment(expires, "--expires")
    text = new_token()
    path = token_file(kind, out, text)
    try:
        owned = {key: owner} if key else {}
        _let_in(where, kind, path, {"name": name or path.stem, **owned, "sha256": token_hash(text), "expires": end})
    except ConfigError:
        path.unlink(missing_ok=True)  # Nobody lets it in.
        raise


@token.command("list")
@as_json_option
@with_files
def list_tokens(where: Where, as_json: bool) -> None:
    """List tokens with whom they are for."""
    from firezone.portal.policy_edit import read_tables

    tables = read_tables(where.config)
    rows = [
        {"name": table["name"], "kind": kind, "for": table.get(key) if key else None, "state": state_of(table),
         "expires": table.get("expires")}
        for kind, key in OWNER.items() for table in tables.get(f"{kind}_token", [])
    ]  # fmt: skip
    show(rows, ("name", "kind", "for", "state", "expires"), as_json, "There is no token: nobody can log in.")


@token.command("revoke")
@click.argument("name")
@with_files
def revoke(where: Where, name: str) -> None:
    """Let a token in no longer: its connections and what it was granted end at once."""
    _set_revoked(where, name, is_revoked=True)


@token.command("disable")
@click.argument("name")
@with_files
def disable(where: Where, name: str) -> None:
    """The same as revoke."""
    _set_revoked(where, name, is_revoked=True)


@token.command("enable")
@click.argument("name")
@with_files
def enable(where: Where, name: str) -> None:
    """Let a revoked token in again."""
    _set_revoked(where, name, is_revoked=False)


@token.command("remove")
@click.argument("name")
@with_files
def remove(where: Where, name: str) -> None:
    """Revoke a token and take it out of the policy. Comments in the file stay."""
    with editing(where, f"Removed the token {name!r}.") as edit:
        edit.remove(*edit.find_token(name))


def _printing(kind: str) -> None:
    @token.command(kind, short_help=f"Make a token for a {kind} and print its lines for the policy.")
    @click.option("--for", "owner", default=None, help="Site of a gateway, user of a client; a relay is for everybody.")
    @click.option("--name", default=None, help="What the token is for.")
    @click.option("--out", default=None, type=click.Path(path_type=Path, dir_okay=False), help="File for the token.")
    @with_files
    def command(where: Where, owner: str | None, name: str | None, out: Path | None) -> None:
        """Make a token: its text into a file, and the lines for the policy on the screen."""
        from firezone.portal.starter import new_token, token_block

        _owner_key(kind, owner)
        text = new_token()
        path = token_file(kind, out, text)
        block = token_block(kind, owner or "", name or path.stem, text)
        click.echo(f"# The token is in {path}. Add to the policy:\n{block}", nl=False)


for _kind in OWNER:
    _printing(_kind)


def _owner_key(kind: str, owner: str | None) -> str | None:
    key = OWNER[kind]
    if key is not None and owner is None:
        raise click.UsageError(f"--for is missing: the {key} that the token is for.")
    if key is None and owner is not None:
        raise click.UsageError("A relay's token is for nobody in particular; leave out --for.")
    return key


def _let_in(where: Where, kind: str, path: Path, values: dict[str, Any]) -> None:
    with editing(where, f"The token is in {path}: keep it secret.") as edit:
        if values["name"] in [table.get("name") for other in OWNER for table in edit.tables(f"{other}_token")]:
            raise ConfigError(f"There is a token {values['name']!r} already; give this one another --name.")
        edit.add(f"{kind}_token", values)


def _set_revoked(where: Where, name: str, *, is_revoked: bool) -> None:
    with editing(where, f"{'Revoked' if is_revoked else 'Enabled'} the token {name!r}.") as edit:
        kind, index = edit.find_token(name)
        if edit.tables(kind)[index].get("revoked", False) != is_revoked:
            edit.set(kind, index, "revoked", is_revoked)
