"""The values in a policy file: addresses, names, filters, dates, hours, each with the error that says what would be right.

Source: portal protocol sections 5.4, 5.5, 9.6, 9.7.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import datetime, time

import msgspec

from firezone.base.errors import ConfigError
from firezone.base.net import Endpoint, Network
from firezone.proto.portal.model import Location
from firezone.wire.portal.shared import Filter, UnixSeconds, parse_endpoint

RESERVED = (ipaddress.ip_network("100.64.0.0/10"), ipaddress.ip_network("fd00:2021:1111::/48"))
"""Tunnel addresses: never routable as a resource."""

Path = tuple[str | int, ...]


class PolicyError(ConfigError):
    """A policy that cannot be used."""

    def __init__(self, message: str, where: Path = ()) -> None:
        super().__init__(message)
        self.where = where


def read_relay_endpoints(ipv4: str | None, ipv6: str | None, port: int, at: Path) -> tuple[Endpoint, ...]:
    """Returns where a relay is reached, IPv4 before IPv6."""
    if not 0 < port < 65536:
        raise PolicyError(f"{port} is no UDP port", (*at, "port"))
    endpoints = []
    for family, text in ((4, ipv4), (6, ipv6)):
        if text is None:
            continue
        try:
            address = ipaddress.ip_address(text)
        except ValueError as error:
            raise PolicyError(f"{text!r} is no IP address", (*at, f"ipv{family}")) from error
        if address.version != family:
            raise PolicyError(f"{text!r} is no IPv{family} address", (*at, f"ipv{family}"))
        endpoints.append(Endpoint(address.packed, port))
    if not endpoints:
        raise PolicyError("a relay needs an address: ipv4, ipv6 or both", at)
    return tuple(endpoints)


def read_location(place: list[float] | None, at: Path) -> Location | None:
    """Reads `[latitude, longitude]`."""
    if place is None:
        return None
    if len(place) != 2 or not (-90 <= place[0] <= 90 and -180 <= place[1] <= 180):
        raise PolicyError("a location is [latitude, longitude] in degrees, such as [52.5, 13.4]", at)
    return place[0], place[1]


def from_validation(error: msgspec.ValidationError) -> PolicyError:
    """Turns an error of the document's shape into one that names the place."""
    message, _, place = str(error).partition(" - at `$")
    where: Path = tuple(int(part) if part.isdigit() else part for part in re.findall(r"[A-Za-z0-9_]+", place))
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message)
    if unknown is not None:
        return PolicyError(f"the key {unknown[1]!r} is not known here", (*where, unknown[1]))
    missing = re.fullmatch(r"Object missing required field `(.*)`", message)
    if missing is not None:
        return PolicyError(f"the key {missing[1]!r} is missing", where)
    message = message.replace(" | null", "")
    return PolicyError(message[:1].lower() + message[1:], where)


def read_network(text: str, at: Path) -> Network:
    """Reads a network or a single address."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        try:
            hint = f"; {ipaddress.ip_network(text, strict=False)} is one"
        except ValueError:
            hint = ""
        raise PolicyError(f"{text!r} is neither an IP address nor a network such as 192.168.1.0/24{hint}", at) from error


def read_target(text: str | None, kind: str | None, at: Path, *, is_internet: bool) -> Network | str | None:
    """Returns what a resource leads to: a network, a pattern of names in lower case, or None for the Internet.

    `kind` may say what is meant: cidr, ip, dns or internet. Without it the address speaks for itself.
    """
    if kind not in (None, "cidr", "ip", "dns", "internet"):
        raise PolicyError(f"{kind!r} is none of cidr, ip, dns, internet", (*at, "type"))
    if is_internet or kind == "internet":
        if text is not None or kind not in (None, "internet"):
            raise PolicyError("the Internet resource has no address and no other type", at)
        return None
    if text is None:
        raise PolicyError("the key 'address' is missing; only the Internet has none, with internet = true", at)
    where = (*at, "address")
    if kind == "dns" or (kind is None and not _looks_like_network(text)):
        return _read_pattern(text, where)
    network = read_network(text, where)
    if kind == "ip" and network.num_addresses != 1:
        raise PolicyError(f"{text} is a network and no single address", where)
    _refuse_reserved(network, text, where)
    return network


def _looks_like_network(text: str) -> bool:
    return re.fullmatch(r"[0-9.]+(/.*)?|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(/.*)?", text) is not None or "/" in text


def _read_pattern(text: str, at: Path) -> str:
    """Reads a DNS name in which `*` stands for one label or part of one, `**` for any number of labels, `?` for one character."""
    name = text.strip().lower().removesuffix(".")
    if not name.isascii():
        try:
            name = ".".join(label if "*" in label or "?" in label else label.encode("idna").decode() for label in name.split("."))
        except UnicodeError as error:
            raise PolicyError(f"{text!r} is no DNS name", at) from error
    label = r"(?!-)[a-z0-9_*?-]{1,63}(?<!-)"
    if (
        len(name) > 253
        or re.fullmatch(rf"{label}(\.{label})*", name) is None
        or any("**" in part and part != "**" for part in name.split("."))
    ):
        hint = "such as wiki.example.com, *.example.com (one level) or **.example.com (any depth)"
        raise PolicyError(f"{text!r} is neither an address, a network nor a DNS name, {hint}", at)
    if re.search(r"[a-z0-9]", name) is None:
        raise PolicyError(f"{text!r} would be every name; the Internet is a resource with internet = true", at)
    if re.search(r"[*?][^.]*$", name) is not None:
        raise PolicyError(f"{text!r} has a wildcard in its last part, where the original's portal allows none", at)
    return name


def _refuse_reserved(network: Network, text: str, at: Path) -> None:
    for reserved in RESERVED:
        if network.version == reserved.version and network.overlaps(reserved):
            raise PolicyError(f"{text} overlaps {reserved}, which the tunnel itself uses", at)


def read_server(text: str) -> str:
    """Reads a DNS server: an address, its port 53 unless it names one."""
    at: Path = ("account", "upstream_dns")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        try:
            endpoint = parse_endpoint(text)
        except ValueError as error:
            raise PolicyError(f"{text!r} is no IP address of a DNS server", at) from error
        _refuse_reserved(ipaddress.ip_network(endpoint.ip), text, at)
        return str(endpoint)
    _refuse_reserved(ipaddress.ip_network(address), text, at)
    return f"{address}:53" if address.version == 4 else f"[{address}]:53"


def read_filter(text: str, at: Path) -> Filter:
    """Reads `tcp/443`, `udp/1000-2000`, `tcp`, `udp` or `icmp`."""
    match = re.fullmatch(r"(tcp|udp|icmp)(?:/([0-9]{1,5})(?:-([0-9]{1,5}))?)?", text)
    if match is None or (match[1] == "icmp" and match[2] is not None):
        raise PolicyError(f'{text!r} is no filter; write "tcp/443", "udp/1000-2000", "tcp", "udp" or "icmp"', at)
    start, end = int(match[2] or 0), int(match[3] or match[2] or 65535)
    if not start <= end <= 65535:
        raise PolicyError(f"the ports of {text!r} are not a range within 0 to 65535", at)
    return Filter(protocol=match[1], port_range_start=start, port_range_end=end)


def read_timestamp(moment: datetime | None, at: Path) -> UnixSeconds | None:
    """Reads a date with time and zone."""
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise PolicyError("a date needs a time and a zone, such as 2030-01-01T00:00:00Z", at)
    return UnixSeconds(int(moment.timestamp()))


def read_span(text: str, at: Path) -> tuple[time, time]:
    """Reads `08:00-17:30`, or `true` for the whole day."""
    if text == "true":
        return time(0), time(23, 59, 59)
    match = re.fullmatch(r"(\d{1,2})(?::(\d\d))?(?::(\d\d))?-(\d{1,2})(?::(\d\d))?(?::(\d\d))?", text)
    message = f"{text!r} is no span of time such as 08:00-17:30"
    if match is None:
        raise PolicyError(message, at)
    first, second, third, fourth, fifth, sixth = (int(part or 0) for part in match.groups())
    try:
        start, end = time(first, second, third), time(fourth, fifth, sixth)
    except ValueError as error:
        raise PolicyError(message, at) from error
    if end < start:
        raise PolicyError(f"{text!r} ends before it begins", at)
    return start, end
