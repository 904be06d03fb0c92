"""What a question is answered with, or who else must be asked.

| question | answer |
|---|---|
| `use-application-dns.net` | no such name, so that browsers leave DNS to the machine |
| A, AAAA of a resource's name | its made-up addresses of that family if any of its resources allows it, else none |
| HTTPS of a resource's name | no records: programs go on to ask for addresses |
| SRV, TXT of a resource's name | whatever the site says |
| PTR of a made-up address | the name |
| anything else | whatever the machine's servers say |

Source: client 8.4, 8.5, 15.3.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firezone.proto.dns.pattern_order import PatternIndex
from firezone.proto.dns.records import ProxyAddresses
from firezone.wire.dns import RecordType, ResponseCode, encode_name, local_answer

if TYPE_CHECKING:
    from firezone.base.ids import ResourceId
    from firezone.base.net import Address
    from firezone.wire.dns import Question

CANARY = "use-application-dns.net"
"""Firefox resolves by itself, past us, unless this name is denied."""
MAX_REMEMBERED = 4096
"""Names whose resources are remembered until a resource changes: 2 MiB. Programs ask for few names, but ask every second."""
_OURS = frozenset({RecordType.A, RecordType.AAAA, RecordType.HTTPS, RecordType.SRV, RecordType.TXT})
"""Types that other servers are not asked for of a resource's name."""
_NIBBLES = frozenset("0123456789abcdef")
_STACKS = {"dual": (4, 6), "ipv4_only": (4,), "ipv6_only": (6,)}


@dataclass(frozen=True, slots=True)
class Local:
    """Answered here."""

    answer: bytes
    name: str | None = None
    """The resource's name that it is about; None when it is about none."""


@dataclass(frozen=True, slots=True)
class Site:
    """The gateway of this resource knows."""

    resource: ResourceId


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server of the machine's knows."""


@dataclass(frozen=True, slots=True)
class _Named:
    pattern: str
    families: tuple[int, ...]


class StubResolver:
    """Resources that have names, and the addresses made up for these."""

    def __init__(self, proxies: ProxyAddresses | None = None) -> None:
        self.proxies = proxies if proxies is not None else ProxyAddresses()
        self._resources: dict[ResourceId, _Named] = {}
        self._by_pattern: dict[str, set[ResourceId]] = {}
        self._index = PatternIndex()
        self._found: dict[str, tuple[ResourceId, ...]] = {}
        """What `resources_of` found since a resource changed, by name in lower case."""

    def set_resource(self, resource: ResourceId, pattern: str, stack: str = "dual") -> None:
        """Adds a resource or changes it.

        `stack`: dual, ipv4_only or ipv6_only. A pattern that cannot be read matches nothing.
        """
        self.remove_resource(resource)
        pattern = pattern.lower().removesuffix(".")
        self._resources[resource] = _Named(pattern, _STACKS[stack])
        self._by_pattern.setdefault(pattern, set()).add(resource)
        self._index.add(pattern)
        self._found.clear()

    def remove_resource(self, resource: ResourceId) -> None:
        """Forgets a resource; names keep their addresses."""
        named = self._resources.pop(resource, None)
        if named is None:
            return
        owners = self._by_pattern[named.pattern]
        owners.discard(resource)
        if not owners:
            del self._by_pattern[named.pattern]
            self._index.discard(named.pattern)
        self._found.clear()

    def resources_of(self, name: str) -> tuple[ResourceId, ...]:
        """Returns the resources a name belongs to: the more specific pattern first, of equal ones the larger id."""
        key = name.lower()
        if (found := self._found.get(key)) is None:
            if len(self._found) >= MAX_REMEMBERED:
                self._found.clear()
            patterns = self._index.matching(key)
            found = tuple(resource for pattern in patterns for resource in sorted(self._by_pattern[pattern], reverse=True))
            self._found[key] = found
        return found

    def leaves(self, question: Question) -> bool:
        """Tells whether a question is left to other servers. Nothing changes by asking this."""
        if question.kind == RecordType.PTR:
            return self._name_of_pointer(question) is None
        return question.name.lower() != CANARY and (question.kind not in _OURS or not self.resources_of(question.name))

    def resolve(self, question: Question) -> Local | Site | Upstream:
        """Decides what becomes of a question. A resource's name that is asked for by address has addresses from then on."""
        name, kind = question.name, question.kind
        if self.leaves(question):
            return Upstream()
        if kind == RecordType.PTR:
            stood_for = self._name_of_pointer(question)
            assert stood_for is not None
            return Local(local_answer(question, [encode_name(stood_for)]), stood_for)
        if name.lower() == CANARY:
            return Local(local_answer(question, code=ResponseCode.NAME_ERROR))
        resources = self.resources_of(name)
        match kind:
            case RecordType.A | RecordType.AAAA:
                return Local(local_answer(question, self._addresses(name, resources, 4 if kind == RecordType.A else 6)), name)
            case RecordType.SRV | RecordType.TXT:
                return Site(resources[0])
            case _:
                return Local(local_answer(question), name)

    def _addresses(self, name: str, resources: tuple[ResourceId, ...], family: int) -> list[bytes]:
        addresses = self.proxies.assign(name)
        if not any(family in self._resources[resource].families for resource in resources):
            return []
        return [address.packed for address in addresses if address.version == family]

    def _name_of_pointer(self, question: Question) -> str | None:
        address = address_of_pointer(question.name)
        return None if address is None else self.proxies.name_of(address)


def address_of_pointer(name: str) -> Address | None:
    """Returns the address that a name below in-addr.arpa or ip6.arpa stands for (RFC 1035 3.5, RFC 3596 2.5), None for another."""
    *labels, kind, top = ["", *name.lower().split(".")]
    labels = labels[1:]
    if top != "arpa":
        return None
    try:
        if kind == "in-addr" and len(labels) == 4:
            return ipaddress.IPv4Address(".".join(reversed(labels)))
        if kind == "ip6" and len(labels) == 32 and all(label in _NIBBLES for label in labels):
            return ipaddress.IPv6Address(int("".join(reversed(labels)), 16))
    except ValueError:
        pass
    return None
