"""How this host resolves names: `/etc/resolv.conf` and `/etc/hosts`, read as resolvers read them (resolv.conf(5), hosts(5))."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from firezone.base.net import Endpoint

if TYPE_CHECKING:
    from firezone.base.net import Address

log = structlog.get_logger(__name__)

RESOLV_CONF, HOSTS = Path("/etc/resolv.conf"), Path("/etc/hosts")
DNS_PORT = 53


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """Whom to ask, and what a name of one label may stand for."""

    nameservers: tuple[Endpoint, ...] = ()
    search: tuple[str, ...] = ()


def read_resolv_conf(path: Path = RESOLV_CONF) -> ResolvConf:
    """Reads the file; one that cannot be read names no server."""
    return parse_resolv_conf(_read(path))


def read_hosts(path: Path = HOSTS) -> dict[str, tuple[Address, ...]]:
    """Reads the addresses of every name of the file, names in lower case."""
    return parse_hosts(_read(path))


def parse_resolv_conf(text: str) -> ResolvConf:
    """Reads the lines that matter, and no others; of several `search` or `domain` lines the last one counts."""
    nameservers: dict[Endpoint, None] = {}
    search: tuple[str, ...] = ()
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0][0] in "#;":
            continue
        if words[0] == "nameserver":
            try:
                nameservers[Endpoint.from_text(words[1], DNS_PORT)] = None
            except ValueError:
                log.debug("a name server is no address", line=line)
        elif words[0] in ("search", "domain"):
            search = tuple(word.strip(".").lower() for word in words[1:] if word.strip("."))
    return ResolvConf(tuple(nameservers), search)


def parse_hosts(text: str) -> dict[str, tuple[Address, ...]]:
    """Reads every line of an address and its names."""
    found: dict[str, tuple[Address, ...]] = {}
    for line in text.splitlines():
        words = line.split("#", 1)[0].split()
        if len(words) < 2:
            continue
        try:
            address = ipaddress.ip_address(words[0])
        except ValueError:
            continue
        for word in words[1:]:
            name = word.lower().removesuffix(".")
            found[name] = (*found.get(name, ()), address)
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        log.debug("cannot be read", path=str(path), error=error.strerror)
        return ""
