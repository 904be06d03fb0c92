"""The policy file: a parsed TOML document becomes a `PolicyBook`, or an error that names the place.

The document is read elsewhere; here is what its keys mean. `where` of an error is a path such as ("resource", 1, "address");
`find_line` turns it into a line of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime, tzinfo
from typing import Any, TypeVar

import msgspec

from firezone.base.ids import ResourceId, SiteId
from firezone.base.secret import SecretText
from firezone.proto.portal.config_values import (
    Path,
    PolicyError,
    from_validation,
    read_filter,
    read_location,
    read_network,
    read_relay_endpoints,
    read_server,
    read_span,
    read_target,
    read_timestamp,
)
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
from firezone.wire.portal.shared import is_domain, normal_uuid

EVERYONE = "Everyone"
"""The group that every user is in without being listed."""
_T = TypeVar("_T")


class _Table(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class _Account(_Table):
    name: str = "Home"
    slug: str = "home"
    search_domain: str | None = None
    upstream_dns: list[str] = []
    upstream_doh: list[str] = []


class _Site(_Table):
    name: str
    id: str | None = None
    enabled: bool = True
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
    sites: list[str]
    address: str | None = None
    internet: bool = False
    type: str | None = None
    ip_stack: str = "dual"
    id: str | None = None
    enabled: bool = True
    description: str | None = None
    filters: list[str] = []


class _Policy(_Table):
    group: str
    resource: str
    name: str | None = None
    id: str | None = None
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
        raise from_validation(error) from error
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
        self._closed_sites: frozenset[SiteId] = frozenset()
        self._policy_ids: set[str] = set()

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
            place = read_location(site.location, ("site", index, "location"))
            if site.enabled:
                sites[self._site_ids[site.name]] = Site(self._site_ids[site.name], site.name, place)
        self._closed_sites = frozenset(self._site_ids.values()) - sites.keys()
        users = (User(self._user_ids[user.name], user.name, user.enabled) for user in document.user)
        resources = [self._resource(index, resource) for index, resource in enumerate(document.resource)]
        self._at_most_one_internet(resources)
        enabled = {self._resource_ids[table.name] for table in document.resource if table.enabled}
        return PolicyBook(
            account, sites, {user.id: user for user in users}, self._tokens(),
            {resource.id: resource for resource in resources if resource.id in enabled},
            tuple(self._policy(index, policy) for index, policy in enumerate(document.policy)),
            self._relays(),
        )  # fmt: skip

    def _account(self, account: _Account) -> Account:
        if account.search_domain is not None and not is_domain(account.search_domain):
            raise PolicyError(f"{account.search_domain!r} is no DNS name", ("account", "search_domain"))
        servers = tuple(read_server(text) for text in account.upstream_dns)
        for url in account.upstream_doh:
            if re.fullmatch(r"https://[^\s/]+(/\S*)?", url) is None:
                raise PolicyError(f"{url!r} is no https:// URL of a DNS server", ("account", "upstream_doh"))
        return Account(account.name, account.slug, account.search_domain, servers, tuple(account.upstream_doh))

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
            place = read_location(relay.location, ("relay_token", index, "location"))
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
            endpoints = read_relay_endpoints(table.ipv4, table.ipv6, table.port, at)
            place = read_location(table.location, (*at, "location"))
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
        expires = read_timestamp(table.expires, (*at, "expires"))
        if not table.revoked and owner_id not in self._closed_sites:
            tokens[digest] = Token(stable_id("token", digest), table.name, role, owner_id, digest, expires, location)

    def _resource(self, index: int, table: _Resource) -> Resource:
        at: Path = ("resource", index)
        address = read_target(table.address, table.type, at, is_internet=table.internet)
        if address is None and table.filters:
            raise PolicyError("the Internet resource has no filters", (*at, "filters"))
        if table.ip_stack not in ("dual", "ipv4_only", "ipv6_only"):
            raise PolicyError(f"{table.ip_stack!r} is none of dual, ipv4_only, ipv6_only", (*at, "ip_stack"))
        if table.ip_stack != "dual" and not isinstance(address, str):
            raise PolicyError("only a name has an ip_stack", (*at, "ip_stack"))
        sites = dict.fromkeys(self._find(self._site_ids, "site", name, (*at, "sites")) for name in table.sites)
        filters = tuple(read_filter(text, (*at, "filters")) for text in table.filters)
        return Resource(
            self._resource_ids[table.name], table.name, address, table.description, filters,
            tuple(site for site in sites if site not in self._closed_sites), table.ip_stack,
        )  # fmt: skip

    def _at_most_one_internet(self, resources: list[Resource]) -> None:
        found = [index for index, resource in enumerate(resources) if resource.kind == "internet"]
        if len(found) > 1:
            raise PolicyError("there is an Internet resource already", ("resource", found[1]))

    def _policy(self, index: int, table: _Policy) -> Policy:
        at: Path = ("policy", index)
        resource = self._find(self._resource_ids, "resource", table.resource, (*at, "resource"))
        remote = None if table.remote_ip is None else tuple(read_network(text, (*at, "remote_ip")) for text in table.remote_ip)
        policy_id = self._policy_id(table, at)
        return Policy(
            policy_id, table.group, self._find(self._members, "group", table.group, (*at, "group")),
            resource, table.enabled, read_timestamp(table.expires, (*at, "expires")), remote,
            tuple(read_network(text, (*at, "remote_ip_not")) for text in table.remote_ip_not),
            None if table.hours is None else tuple(span for text in table.hours for span in self._hours(text, (*at, "hours"))),
        )  # fmt: skip

    def _policy_id(self, table: _Policy, at: Path) -> str:
        """Returns the id of a policy: its own, or one by what it says. Those that say the same are told apart by their order."""
        if table.id is None:
            words, again = ["policy", table.group, table.resource, table.name or ""], 1
            while (policy_id := stable_id(*words)) in self._policy_ids:
                words[4:], again = [str(again)], again + 1
        else:
            try:
                policy_id = normal_uuid(table.id)
            except ValueError as error:
                raise PolicyError(f"{table.id!r} is no UUID", (*at, "id")) from error
            if policy_id in self._policy_ids:
                raise PolicyError(f"the id {policy_id} is taken by another policy", (*at, "id"))
        self._policy_ids.add(policy_id)
        return policy_id

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
        return [Hours("MTWRFSU".index(match[1]), *read_span(span, at), zone) for span in spans]

    def _find(self, table: dict[str, _T], kind: str, name: str, at: Path) -> _T:
        if name not in table:
            known = ", ".join(repr(other) for other in table) or "none"
            raise PolicyError(f"there is no {kind} {name!r} (known: {known})", at)
        return table[name]
