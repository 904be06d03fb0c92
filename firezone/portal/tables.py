"""Subcommands for what the policy file owns: sites, users, groups, resources, policies and tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from firezone.base.errors import ConfigError
from firezone.portal.commands import Where, add_switches, as_json_option, editing, moment, show, state_of, with_files

CONDITIONS = ("remote_ip", "remote_ip_not", "hours", "expires")


@click.group()
def site() -> None:
    """Sites: places with gateways that reach the same networks."""


@click.group()
def user() -> None:
    """Users: people, or machines with tokens of their own."""


@click.group()
def group() -> None:
    """Groups of users, which policies name. The group "Everyone" always exists."""


@click.group()
def resource() -> None:
    """Resources: addresses, networks, names and patterns of names, the Internet.

    \b
    python -m firezone.portal resource add "Wiki" wiki.example.com --for Everyone
    python -m firezone.portal resource add "Intranet" "**.corp.example" --filter tcp/443
    python -m firezone.portal resource add "Lab" 10.20.0.0/16 --site Berlin --for Staff
    python -m firezone.portal resource add "Internet" --internet --site Exit --for Staff

    In a pattern * is one label, ** any number of labels, ? one character.
    """


@click.group()
def policy() -> None:
    """Policies: which group may reach which resource, and when.

    A policy without a name is called GROUP:RESOURCE.
    """


GROUPS = {"site": site, "user": user, "group": group, "resource": resource, "policy": policy}


@site.command("add")
@click.argument("name")
@with_files
def add_site(where: Where, name: str) -> None:
    """Add a site. Its gateways need a token: token add gateway --for NAME."""
    with editing(where, f"Added the site {name!r}.") as edit:
        edit.add("site", {"name": name})


@site.command("list")
@as_json_option
@with_files
def list_sites(where: Where, as_json: bool) -> None:
    """List sites with their resources."""
    tables = _tables(where)
    rows = [
        {"name": table["name"], "state": state_of(table),
         "resources": [other["name"] for other in tables.get("resource", []) if table["name"] in other["sites"]]}
        for table in tables.get("site", [])
    ]  # fmt: skip
    show(rows, ("name", "state", "resources"), as_json, "There is no site.")


@user.command("add")
@click.argument("name")
@click.option("--group", "groups", multiple=True, help="A group to join, made if it is not there; may be given many times.")
@with_files
def add_user(where: Where, name: str, groups: tuple[str, ...]) -> None:
    """Add a user. Each of their devices needs a token: token add client --for NAME."""
    with editing(where, f"Added the user {name!r}.") as edit:
        edit.add("user", {"name": name})
        for other in groups:
            _join(edit, other, [name])


@user.command("list")
@as_json_option
@with_files
def list_users(where: Where, as_json: bool) -> None:
    """List users with their groups and tokens."""
    tables = _tables(where)
    rows = [
        {"name": table["name"], "state": state_of(table),
         "groups": [other["name"] for other in tables.get("group", []) if table["name"] in other["members"]],
         "tokens": [other["name"] for other in tables.get("client_token", []) if other["user"] == table["name"]]}
        for table in tables.get("user", [])
    ]  # fmt: skip
    show(rows, ("name", "state", "groups", "tokens"), as_json, "There is no user.")


@group.command("add")
@click.argument("name")
@click.argument("members", nargs=-1)
@with_files
def add_group(where: Where, name: str, members: tuple[str, ...]) -> None:
    """Add a group with its members, or members to a group that is there."""
    with editing(where, f"The group {name!r} has {'its members' if members else 'no new members'}.") as edit:
        _join(edit, name, list(members))


@group.command("leave")
@click.argument("name")
@click.argument("members", nargs=-1, required=True)
@with_files
def leave_group(where: Where, name: str, members: tuple[str, ...]) -> None:
    """Take members out of a group."""
    with editing(where, f"Took {', '.join(members)} out of the group {name!r}.") as edit:
        index = edit.find("group", name)
        present = edit.tables("group")[index]["members"]
        for member in members:
            if member not in present:
                raise ConfigError(f"{member!r} is no member of the group {name!r} (members: {', '.join(present) or 'none'}).")
        edit.set("group", index, "members", [member for member in present if member not in members])


@group.command("list")
@as_json_option
@with_files
def list_groups(where: Where, as_json: bool) -> None:
    """List groups with their members."""
    show(_tables(where).get("group", []), ("name", "members"), as_json, 'There is no group but "Everyone".')


@resource.command("add")
@click.argument("name")
@click.argument("address", required=False)
@click.option("--internet", is_flag=True, help="Everything that no other resource covers; needs no address.")
@click.option("--site", "sites", multiple=True, help="A site whose gateways reach it; repeatable.  [default: the only one]")
@click.option("--filter", "filters", multiple=True, metavar="FILTER",
              help="What may pass: tcp/443, udp/1000-2000, tcp, udp, icmp; repeatable.  [default: everything]")  # fmt: skip
@click.option("--description", default=None, help="Shown to users, a URL for example.")
@click.option("--ip-stack", default=None, type=click.Choice(["dual", "ipv4_only", "ipv6_only"]), help="Of a name.")
@click.option("--for", "group_names", multiple=True, metavar="GROUP", help="Also add a policy for this group.")
@with_files
def add_resource(
    where: Where, name: str, address: str | None, internet: bool, sites: tuple[str, ...], filters: tuple[str, ...],
    description: str | None, ip_stack: str | None, group_names: tuple[str, ...],
) -> None:  # fmt: skip
    """Add a resource: NAME ADDRESS, or NAME --internet."""
    if (address is None) != internet:
        raise click.UsageError("Give an address (an IP address, a network, a name or a pattern), or --internet without one.")
    with editing(where, f"Added the resource {name!r}.") as edit:
        known = [table["name"] for table in edit.tables("site")]
        if not sites and len(known) != 1:
            raise ConfigError(f"Which site? Give --site, one of {', '.join(known) or 'those you add first: site add'}.")
        edit.add("resource", {
            "name": name, "address": address, "internet": internet or None, "sites": list(sites or known),
            "description": description, "ip_stack": ip_stack, "filters": list(filters) or None,
        })  # fmt: skip
        for other in group_names:
            edit.add("policy", {"group": other, "resource": name})
    if not group_names:
        click.echo(f"Nobody reaches it yet: policy add GROUP {name!r} lets a group in.")


@resource.command("list")
@as_json_option
@with_files
def list_resources(where: Where, as_json: bool) -> None:
    """List resources with their sites and who may reach them."""
    tables = _tables(where)
    rows = [
        {"name": table["name"], "address": table.get("address", "the Internet"), "state": state_of(table), "sites": table["sites"],
         "filters": table.get("filters", []),
         "groups": [other["group"] for other in tables.get("policy", [])
                    if other["resource"] == table["name"] and state_of(other) == "on"]}
        for table in tables.get("resource", [])
    ]  # fmt: skip
    show(rows, ("name", "address", "state", "sites", "filters", "groups"), as_json, "There is no resource.")


@policy.command("add")
@click.argument("group_name", metavar="GROUP")
@click.argument("resource_name", metavar="RESOURCE")
@click.option("--name", default=None, help="What the policy is called; needed when there is one for the same two.")
@click.option("--expires", default=None, metavar="WHEN", help="End, such as 2030-01-01T00:00:00Z.")
@click.option("--remote-ip", multiple=True, metavar="NETWORK", help="Only for clients that come from there.")
@click.option("--remote-ip-not", multiple=True, metavar="NETWORK", help="Not for clients that come from there.")
@click.option("--hours", multiple=True, metavar="SPAN", help="Only then, such as M/08:00-17:30/Europe/Berlin (days M T W R F S U).")
@with_files
def add_policy(
    where: Where, group_name: str, resource_name: str, name: str | None, expires: str | None, remote_ip: tuple[str, ...],
    remote_ip_not: tuple[str, ...], hours: tuple[str, ...],
) -> None:  # fmt: skip
    """Let a group reach a resource, while all conditions hold."""
    with editing(where, f"The group {group_name!r} may reach {resource_name!r}.") as edit:
        wanted = name or f"{group_name}:{resource_name}"
        names = [table.get("name") or f"{table['group']}:{table['resource']}" for table in edit.tables("policy")]
        if wanted in names:
            raise ConfigError(f"There is a policy {wanted!r} already; give this one another --name.")
        edit.add("policy", {
            "name": name, "group": group_name, "resource": resource_name, "expires": moment(expires, "--expires"),
            "remote_ip": list(remote_ip) or None, "remote_ip_not": list(remote_ip_not) or None, "hours": list(hours) or None,
        })  # fmt: skip


@policy.command("list")
@as_json_option
@with_files
def list_policies(where: Where, as_json: bool) -> None:
    """List policies with their conditions."""
    from firezone.portal.policy_edit import policy_name

    rows = [
        {**table, "name": policy_name(table), "state": state_of(table),
         "conditions": [f"{key} {_words(table[key])}" for key in CONDITIONS if key in table]}
        for table in _tables(where).get("policy", [])
    ]  # fmt: skip
    show(rows, ("name", "group", "resource", "state", "conditions"), as_json, "There is no policy: nobody reaches anything.")


for _kind, _commands in GROUPS.items():
    add_switches(_commands, _kind)


def _join(edit: Any, name: str, members: list[str]) -> None:
    names = [table["name"] for table in edit.tables("group")]
    if name == "Everyone":
        raise ConfigError('Everybody is in "Everyone" already.')
    if name not in names:
        edit.add("group", {"name": name, "members": members})
        return
    index = edit.find("group", name)
    present = edit.tables("group")[index]["members"]
    edit.set("group", index, "members", [*present, *(member for member in members if member not in present)])


def _tables(where: Where) -> dict[str, list[dict[str, Any]]]:
    from firezone.portal.policy_edit import read_tables

    return read_tables(where.config)


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def token_file(kind: str, out: Path | None, text: str) -> Path:
    """Writes a new token into a file of its own. Raises ConfigError."""
    from firezone.portal.starter import write_secret
    from firezone.proto.portal.model import token_hash

    # Named by its hash: a file's name is no place for a part of the token.
    path = out or Path(f"{kind}-{token_hash(text)[:6]}.token")
    try:
        write_secret(path, text)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists already; name another file by --out.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error
    return path
