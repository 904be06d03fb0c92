"""The policy file: a parsed TOML document becomes a `PolicyBook`, or an error that names the place.

The document is read elsewhere; here is what its keys mean. `where` of an error is a path such as ("resource", 1, "address");
`find_line` turns it into a line of the text.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from datetime import datetime, time, tzinfo
from typing import Any, TypeVar

import msgspec

from firezone.base.errors import ConfigError
from firezone.base.ids import ResourceId, SiteId
from firezone.base.net import Endpoint, Network
from firezone.base.secret import SecretText
from firezone.proto.portal.model import (
    Account,
    Hours,
    Location,
    Policy,
    PolicyBook,
    Resource,
    Role,
    Site,
    StaticRelay,
    Token,
    User,
    stable_id,
)
from firezone.wire.portal.shared import Filter, UnixSeconds, is_domain, normal_uuid, parse_endpoint

EVERYONE = "Everyone"
"""The group that every user is in without being listed."""
RESERVED = (ipaddress.ip_network("100.64.0.0/10"), ipaddress.ip_network("fd00:2021:1111::/48"))
"""Tunnel addresses: never routable as a resource."""

Path = tuple[str | int, ...]
_T = TypeVar("_T")


class PolicyError(ConfigError):
    """A policy that cannot be used."""

    def __init__(self, message: str, where: Path = ()) -> None:
        super().__init__(message)
        self.where = where


class _Table(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class _Account(_Table):
    name: str = "Home"
    slug: str = "home"
    search_domain: str | None = None
    upstream_dns: list[str] = []


class _Site(_Table):
    name: str
    id: str | None = None
    location: list[float] | None = None


class _User(_Table):
    name: str
    id: str | None = None
    enabled: bool = True


class _Group(_Table):
    name: str
    members: list[str]


class _GatewayToken(_Table):
    name: str
    site: str
    sha256: str
    expires: datetime | None = None
    revoked: bool = False


class _ClientToken(_Table):
    name: str
    user: str
    sha256: str
    expires: datetime | None = None
    revoked: bool = False


class _RelayToken(_Table):
    name: str
    sha256: str
    expires: datetime | None = None
    revoked: bool = False
    location: list[float] | None = None


class _Relay(_Table):
    name: str
    secret: str
    ipv4: str | None = None
    ipv6: str | None = None
    port: int = 3478
    location: list[float] | None = None


class _Resource(_Table):
    name: str
    address: str
    sites: list[str]
    id: str | None = None
    description: str | None = None
    filters: list[str] = []


class _Policy(_Table):
    group: str
    resource: str
    name: str | None = None
    enabled: bool = True
    expires: datetime | None = None
    remote_ip: list[str] | None = None
    remote_ip_not: list[str] = []
    hours: list[str] | None = None


class _Document(_Table):
    account: _Account = msgspec.field(default_factory=_Account)
    site: list[_Site] = []
    user: list[_User] = []
    group: list[_Group] = []
    gateway_token: list[_GatewayToken] = []
    client_token: list[_ClientToken] = []
    relay_token: list[_RelayToken] = []
    relay: list[_Relay] = []
    resource: list[_Resource] = []
    policy: list[_Policy] = []


def read_policy(document: dict[str, Any], zone: Callable[[str], tzinfo]) -> PolicyBook:
    """Checks and resolves a policy document. `zone` finds a time zone by its IANA name and raises KeyError or ValueError.

    Raises: PolicyError with the place and what would be right.
    """
    try:
        parsed = msgspec.convert(document, _Document)
    except msgspec.ValidationError as error:
        raise _from_validation(error) from error
    return _Reader(parsed, zone).read()


def find_line(text: str, where: Path) -> int | None:
    """Returns the line (from 1) where a path of the document stands, or that of the table around it."""
    if not where:
        return None
    header = re.compile(r"\s*\[\[?\s*([A-Za-z0-9_]+)\s*\]\]?\s*(#.*)?")
    wanted = where[1] if len(where) > 1 and isinstance(where[1], int) else 0
    key = next((part for part in where[1:] if isinstance(part, str)), None)
    seen, inside, best = -1, False, None
    for number, line in enumerate(text.splitlines(), 1):
        match = header.fullmatch(line)
        if match is not None:
            seen += match[1] == where[0]
            inside = match[1] == where[0] and seen == wanted
            best = number if inside else best
        elif inside and key is not None and re.match(rf"\s*\"?{re.escape(key)}\"?\s*=", line):
            return number
        elif best is None and seen < 0 and re.match(rf"\s*{re.escape(str(where[0]))}\s*=", line):
            best = number
    return best


class _Reader:
    """One pass over the document; every `_at` is where we are, for the error."""

    def __init__(self, document: _Document, zone: Callable[[str], tzinfo]) -> None:
        self._document = document
        self._zone = zone
        self._site_ids: dict[str, SiteId] = {}
        self._user_ids: dict[str, str] = {}
        self._resource_ids: dict[str, ResourceId] = {}
        self._members: dict[str, frozenset[str]] = {}

    def read(self) -> PolicyBook:
        document = self._document
        account = self._account(document.account)
        self._site_ids = {name: SiteId(value) for name, value in self._named("site", document.site).items()}
        self._user_ids = self._named("user", document.user)
        self._resource_ids = {name: ResourceId(value) for name, value in self._named("resource", document.resource).items()}
        for index, group in enumerate(document.group):
            if group.name in (*self._members, EVERYONE):
                raise PolicyError(f"there is a group {group.name!r} already", ("group", index, "name"))
            members = (self._find(self._user_ids, "user", name, ("group", index, "members")) for name in group.members)
            self._members[group.name] = frozenset(members)
        self._members[EVERYONE] = frozenset(self._user_ids.values())
        sites = {}
        for index, site in enumerate(document.site):
            place = _location(site.location, ("site", index, "location"))
            sites[self._site_ids[site.name]] = Site(self._site_ids[site.name], site.name, place)
        users = (User(self._user_ids[user.name], user.name, user.enabled) for user in document.user)
        resources = (self._resource(index, resource) for index, resource in enumerate(document.resource))
        return PolicyBook(
            account, sites, {user.id: user for user in users}, self._tokens(),
            {resource.id: resource for resource in resources},
            tuple(self._policy(index, policy) for index, policy in enumerate(document.policy)),
            self._relays(),
        )  # fmt: skip

    def _account(self, account: _Account) -> Account:
        if account.search_domain is not None and not is_domain(account.search_domain):
            raise PolicyError(f"{account.search_domain!r} is no DNS name", ("account", "search_domain"))
        servers = tuple(_server(text) for text in account.upstream_dns)
        return Account(account.name, account.slug, account.search_domain, servers)

    def _named(self, kind: str, tables: Sequence[_Site | _User | _Resource]) -> dict[str, str]:
        ids: dict[str, str] = {}
        for index, table in enumerate(tables):
            if not table.name.strip():
                raise PolicyError("a name must not be empty", (kind, index, "name"))
            if table.name in ids:
                raise PolicyError(f"there is a {kind} {table.name!r} already", (kind, index, "name"))
            try:
                value = stable_id(kind, table.name) if table.id is None else normal_uuid(table.id)
            except ValueError as error:
                raise PolicyError(f"{table.id!r} is no UUID", (kind, index, "id")) from error
            if value in ids.values():
                raise PolicyError(f"the id {value} is taken by another {kind}", (kind, index, "id"))
            ids[table.name] = value
        return ids

    def _tokens(self) -> dict[str, Token]:
        tokens: dict[str, Token] = {}
        for index, gateway in enumerate(self._document.gateway_token):
            owner: str = self._find(self._site_ids, "site", gateway.site, ("gateway_token", index, "site"))
            self._token(tokens, ("gateway_token", index), gateway, Role.GATEWAY, owner)
        for index, client in enumerate(self._document.client_token):
            owner = self._find(self._user_ids, "user", client.user, ("client_token", index, "user"))
            self._token(tokens, ("client_token", index), client, Role.CLIENT, owner)
        for index, relay in enumerate(self._document.relay_token):
            place = _location(relay.location, ("relay_token", index, "location"))
            self._token(tokens, ("relay_token", index), relay, Role.RELAY, "", place)
        return tokens

    def _relays(self) -> tuple[StaticRelay, ...]:
        relays: dict[str, StaticRelay] = {}
        for index, table in enumerate(self._document.relay):
            at: Path = ("relay", index)
            if re.fullmatch(r"[0-9a-f]{64}", table.secret) is None:
                raise PolicyError("secret must be 64 lower-case hex digits, what the relay was started with", (*at, "secret"))
            if table.secret in relays:
                raise PolicyError("two relays must not have one secret: it is what tells them apart", (*at, "secret"))
            endpoints = _relay_endpoints(table, at)
            place = _location(table.location, (*at, "location"))
            relays[table.secret] = StaticRelay(table.name, endpoints, SecretText(table.secret), place)
        return tuple(relays.values())

    def _token(
        self,
        tokens: dict[str, Token],
        at: Path,
        table: _GatewayToken | _ClientToken | _RelayToken,
        role: Role,
        owner_id: str,
        location: Location | None = None,
    ) -> None:
        digest = table.sha256.lower()
        if re.fullmatch(r"[0-9a-f]{64}", digest) is None:
            raise PolicyError("sha256 must be the SHA-256 of the token: 64 hex digits, not the token itself", (*at, "sha256"))
        if digest in tokens:
            raise PolicyError("this token is listed twice", (*at, "sha256"))
        expires = _timestamp(table.expires, (*at, "expires"))
        if not table.revoked:
            tokens[digest] = Token(stable_id("token", digest), table.name, role, owner_id, digest, expires, location)

    def _resource(self, index: int, table: _Resource) -> Resource:
        at: Path = ("resource", index)
        network = _network(table.address, (*at, "address"))
        for reserved in RESERVED:
            if network.version == reserved.version and network.overlaps(reserved):
                raise PolicyError(f"{table.address} overlaps {reserved}, which the tunnel itself uses", (*at, "address"))
        sites = tuple(self._find(self._site_ids, "site", name, (*at, "sites")) for name in table.sites)
        filters = tuple(_filter(text, (*at, "filters")) for text in table.filters)
        return Resource(self._resource_ids[table.name], table.name, network, table.description, filters, sites)

    def _policy(self, index: int, table: _Policy) -> Policy:
        at: Path = ("policy", index)
        resource = self._find(self._resource_ids, "resource", table.resource, (*at, "resource"))
        remote = None if table.remote_ip is None else tuple(_network(text, (*at, "remote_ip")) for text in table.remote_ip)
        return Policy(
            stable_id("policy", table.group, table.resource, table.name or ""),
            self._find(self._members, "group", table.group, (*at, "group")),
            resource, table.enabled, _timestamp(table.expires, (*at, "expires")), remote,
            tuple(_network(text, (*at, "remote_ip_not")) for text in table.remote_ip_not),
            None if table.hours is None else tuple(span for text in table.hours for span in self._hours(text, (*at, "hours"))),
        )  # fmt: skip

    def _hours(self, text: str, at: Path) -> list[Hours]:
        """Reads `<day>/<ranges>/<IANA zone>`, for example `M/08:00-12:00,13-17/Europe/Berlin` or `S/true/UTC`."""
        match = re.fullmatch(r"([MTWRFSU])/([^/]*)/(.+)", text)
        if match is None:
            raise PolicyError(f'{text!r} is not "<day>/<from>-<to>/<zone>" with a day of MTWRFSU', at)
        try:
            zone = self._zone(match[3])
        except (KeyError, ValueError, OSError) as error:
            raise PolicyError(f"{match[3]!r} is no time zone, such as Europe/Berlin or UTC", at) from error
        spans = [] if match[2] == "" else match[2].split(",")
        return [Hours("MTWRFSU".index(match[1]), *_span(span, at), zone) for span in spans]

    def _find(self, table: dict[str, _T], kind: str, name: str, at: Path) -> _T:
        if name not in table:
            known = ", ".join(repr(other) for other in table) or "none"
            raise PolicyError(f"there is no {kind} {name!r} (known: {known})", at)
        return table[name]


def _relay_endpoints(table: _Relay, at: Path) -> tuple[Endpoint, ...]:
    if not 0 < table.port < 65536:
        raise PolicyError(f"{table.port} is no UDP port", (*at, "port"))
    endpoints = []
    for family, text in ((4, table.ipv4), (6, table.ipv6)):
        if text is None:
            continue
        try:
            address = ipaddress.ip_address(text)
        except ValueError as error:
            raise PolicyError(f"{text!r} is no IP address", (*at, f"ipv{family}")) from error
        if address.version != family:
            raise PolicyError(f"{text!r} is no IPv{family} address", (*at, f"ipv{family}"))
        endpoints.append(Endpoint(address.packed, table.port))
    if not endpoints:
        raise PolicyError("a relay needs an address: ipv4, ipv6 or both", at)
    return tuple(endpoints)


def _location(place: list[float] | None, at: Path) -> Location | None:
    if place is None:
        return None
    if len(place) != 2 or not (-90 <= place[0] <= 90 and -180 <= place[1] <= 180):
        raise PolicyError("a location is [latitude, longitude] in degrees, such as [52.5, 13.4]", at)
    return place[0], place[1]


def _from_validation(error: msgspec.ValidationError) -> PolicyError:
    message, _, place = str(error).partition(" - at `$")
    where: Path = tuple(int(part) if part.isdigit() else part for part in re.findall(r"[A-Za-z0-9_]+", place))
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message)
    if unknown is not None:
        return PolicyError(f"the key {unknown[1]!r} is not known here", (*where, unknown[1]))
    missing = re.fullmatch(r"Object missing required field `(.*)`", message)
    if missing is not None:
        return PolicyError(f"the key {missing[1]!r} is missing", where)
    return PolicyError(message[:1].lower() + message[1:], where)


def _network(text: str, at: Path) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        try:
            hint = f"; {ipaddress.ip_network(text, strict=False)} is one"
        except ValueError:
            hint = ""
        raise PolicyError(f"{text!r} is neither an IP address nor a network such as 192.168.1.0/24{hint}", at) from error


def _server(text: str) -> str:
    at: Path = ("account", "upstream_dns")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        try:
            return str(parse_endpoint(text))
        except ValueError as error:
            raise PolicyError(f"{text!r} is no IP address of a DNS server", at) from error
    return f"{address}:53" if address.version == 4 else f"[{address}]:53"


def _filter(text: str, at: Path) -> Filter:
    match = re.fullmatch(r"(tcp|udp|icmp)(?:/([0-9]{1,5})(?:-([0-9]{1,5}))?)?", text)
    if match is None or (match[1] == "icmp" and match[2] is not None):
        raise PolicyError(f'{text!r} is no filter; write "tcp/443", "udp/1000-2000", "tcp", "udp" or "icmp"', at)
    start, end = int(match[2] or 0), int(match[3] or match[2] or 65535)
    if not start <= end <= 65535:
        raise PolicyError(f"the ports of {text!r} are not a range within 0 to 65535", at)
    return Filter(protocol=match[1], port_range_start=start, port_range_end=end)


def _timestamp(moment: datetime | None, at: Path) -> UnixSeconds | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise PolicyError("a date needs a time and a zone, such as 2030-01-01T00:00:00Z", at)
    return UnixSeconds(int(moment.timestamp()))


def _span(text: str, at: Path) -> tuple[time, time]:
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
