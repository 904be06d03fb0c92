"""What `init` and `token` write: a policy file that explains itself, tokens in files of their own, and the next commands."""

from __future__ import annotations

import base64
import os
import secrets
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from firezone.base.errors import ConfigError
from firezone.proto.portal.model import token_hash

POLICY = """\
# Policy of a Firezone portal: who may reach what. The portal reads this file again whenever it changes;
# if something in it is wrong, it says in which line and keeps the policy it has.

[account]
name = "Home"
slug = "home"
# search_domain = "home.arpa"          # appended to short names on clients
# upstream_dns = ["192.168.1.1"]       # DNS servers clients shall use
# upstream_doh = ["https://dns.quad9.net/dns-query"]     # the same over HTTPS, for the newest clients

# ---- Sites: a site is one or more gateways that reach the same networks ------------------------------------------
[[site]]
name = {site}
# Everything may have an id = "<uuid>"; with it a thing keeps its identity when it is renamed.
# enabled = false                      # its gateways are out, and nothing is reached by it

# A gateway logs in with a token of its site. Only the hash is kept here: sha256 of the text of the token.
# `python -m firezone.portal token add gateway --for {site_plain}` adds another one.
[[gateway_token]]
name = "first gateway"
site = {site}
sha256 = "{gateway_hash}"
# expires = 2030-01-01T00:00:00Z       # no expiry if left out
# revoked = true                       # ends its connections at once

# ---- Users, their groups, and a token per device -----------------------------------------------------------------
[[user]]
name = {user}
# enabled = false                      # ends all connections of this user

[[client_token]]
name = "first client"
user = {user}
sha256 = "{client_hash}"

# The group "Everyone" always exists.
# [[group]]
# name = "Family"
# members = [{user}]

# ---- Relays: carry what finds no direct path; without one, peers behind two difficult NATs do not meet -----------
{relays}
# A relay logs in with a token, and devices get credentials for it from here. Up to two are told to each device.
# `python -m firezone.portal token add relay` adds one.
# [[relay_token]]
# name = "Frankfurt"
# sha256 = "<sha256 of the text of the token>"
# location = [50.1, 8.7]               # latitude, longitude; the nearest to a gateway's site are chosen

# A relay that runs by itself (`python -m firezone.relay --secret ...`) is named with its address and its secret.
# [[relay]]
# name = "by itself"
# ipv4 = "203.0.113.7"                 # ipv4, ipv6 or both
# secret = "<64 lower-case hex digits>"

# ---- Resources: addresses, networks and names behind a site, or the Internet -------------------------------------
{resources}
# [[resource]]
# name = "Web server"
# address = "192.168.1.10"             # IPv4 or IPv6 address, or a network such as 192.168.1.0/24
# sites = [{site}]
# description = "https://192.168.1.10"
# filters = ["tcp/80", "tcp/8000-8100", "udp", "icmp"]     # everything if left out
# enabled = false                      # nobody reaches it

# [[resource]]
# name = "Intranet"
# address = "**.corp.example"          # a name, or a pattern: * is one label, ** any number of labels, ? one character
# ip_stack = "ipv4_only"               # dual (if left out), ipv4_only or ipv6_only
# sites = [{site}]

# [[resource]]
# name = "Internet"                    # everything else; best at a site of its own
# internet = true
# sites = [{site}]

# ---- Policies: a group may reach a resource; without a policy nobody reaches anything ----------------------------
{policies}
# [[policy]]
# group = "Family"
# resource = "Web server"
# name = "family at home"              # as the policy is called in the subcommands; "Family:Web server" if left out
# expires = 2030-01-01T00:00:00Z
# remote_ip = ["203.0.113.0/24"]       # only when the client comes from here
# remote_ip_not = ["198.51.100.7"]
# hours = ["M/08:00-17:30/Europe/Berlin", "T/08:00-12:00,13:00-17:30/Europe/Berlin", "S/true/UTC"]    # M T W R F S U
"""


@dataclass(frozen=True, slots=True)
class Start:
    """What `init` was asked for."""

    config: Path
    site: str
    user: str
    resources: Sequence[tuple[str, str]]
    """Name and address."""
    api_url: str
    bind: str
    relays: Sequence[str] = ()
    """Names of relays that get a token each."""

    def relay_token(self, name: str) -> Path:
        return self.config.parent / f"relay-{name}.token"

    @property
    def gateway_token(self) -> Path:
        return self.config.parent / "gateway.token"

    @property
    def client_token(self) -> Path:
        return self.config.parent / "client.token"


def new_token() -> str:
    """Returns the text of a fresh token: 32 random bytes."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")


def write_start(start: Start, *, force: bool) -> None:
    """Writes the policy and the two token files. Raises ConfigError when one is there already."""
    relays = {name: new_token() for name in start.relays}
    if not force:
        for path in (start.config, start.gateway_token, start.client_token, *map(start.relay_token, relays)):
            if path.exists():
                raise ConfigError(f"{path} exists already; use --force to replace it, or --config for another place.")
    gateway, client = new_token(), new_token()
    text = POLICY.format(
        site=toml_text(start.site), site_plain=shlex.quote(start.site), user=toml_text(start.user),
        gateway_hash=token_hash(gateway), client_hash=token_hash(client),
        resources="\n".join(
            f"[[resource]]\nname = {toml_text(name)}\naddress = {toml_text(address)}\nsites = [{toml_text(start.site)}]\n"
            for name, address in start.resources
        ),
        relays="\n".join(token_block("relay", "", name, text) for name, text in relays.items()),
        policies="\n".join(f'[[policy]]\ngroup = "Everyone"\nresource = {toml_text(name)}\n' for name, _ in start.resources),
    )  # fmt: skip
    try:
        start.config.parent.mkdir(parents=True, exist_ok=True)
        write_secret(start.gateway_token, gateway, replace=force)
        write_secret(start.client_token, client, replace=force)
        for name, token in relays.items():
            write_secret(start.relay_token(name), token, replace=force)
        start.config.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be written: {error.strerror}.") from error


def next_commands(start: Start) -> list[tuple[str, str]]:
    """Returns what to run now: a title and a command each. The commands read the tokens from their files."""
    python = shlex.quote(sys.executable or "python3")
    portal = f"{python} -m firezone.portal --config {shlex.quote(str(start.config.absolute()))}"
    if start.bind:
        portal += f" --bind {shlex.quote(start.bind)}"
    url = shlex.quote(start.api_url)

    def device(program: str, token: Path) -> str:
        return f'FIREZONE_API_URL={url} FIREZONE_TOKEN="$(cat {shlex.quote(str(token.absolute()))})" {python} -m {program}'

    def relay(name: str) -> str:
        return f"{device('firezone.relay', start.relay_token(name))} --public-ip4-addr ADDRESS"

    return [
        ("The portal", portal),
        ("The gateway, as root on a machine inside the site", device("firezone.gateway", start.gateway_token)),
        *((f"Relay {name}, on a host with a public address", relay(name)) for name in start.relays),
        ("The client, as root on the machine that wants in", device("firezone.client", start.client_token)),
    ]


def token_block(kind: str, owner: str, name: str, token: str) -> str:
    """Returns the TOML that lets a token in."""
    key = {"gateway": "site", "client": "user"}.get(kind)
    owned = f"{key} = {toml_text(owner)}\n" if key else ""
    return f'[[{kind}_token]]\nname = {toml_text(name)}\n{owned}sha256 = "{token_hash(token)}"\n'


def write_secret(path: Path, token: str, *, replace: bool = False) -> None:
    """Writes a file that only its owner can read. Raises FileExistsError unless it may `replace` one: the text is nowhere else."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if replace else os.O_EXCL) | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(token + "\n")


def toml_text(text: str) -> str:
    """Returns a TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else f"\\U{ord(char):08X}" for char in escaped) + '"'
