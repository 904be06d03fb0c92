"""What a device understands: the protocol's version by its path, and what its program's version can be told.

Source: portal protocol sections 9.15, 11.2, 11.8.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from firezone.proto.portal.model import Kind, Role
from firezone.wire.portal import client, gateway
from firezone.wire.portal.shared import Vocabulary
from firezone.wire.portal.v2 import client as client2
from firezone.wire.portal.v2 import gateway as gateway2
from firezone.wire.portal.v2.shared import NEWER_NAMES

Version = tuple[int, int, int]

COMPONENTS = ("connlib/", "headless-client/", "gui-client/", "apple-client/", "android-client/", "gateway/", "relay/")
"""Words of a user agent whose rest is the version."""

HAS_PATTERNS: Version = (1, 2, 0)
"""Since then `*` is one label and `**` any number; before, `?` and `*`."""
HAS_INTERNET: Version = (1, 3, 0)
SAYS_SITES: dict[str, Version] = {"headless": (1, 5, 6), "gui": (1, 5, 10), "apple": (1, 5, 11), "android": (1, 5, 8)}
MOVES_SITES: dict[str, Version] = {"headless": (1, 5, 5), "gui": (1, 5, 9), "apple": (1, 5, 9), "android": (1, 5, 5)}
"""Since then a resource may change its sites without being deleted and made again."""

_SEMVER = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})(?:[-+][0-9A-Za-z.+-]+)?")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to speak with one device."""

    role: Role
    protocol: int
    """1 or 2."""
    component: str
    """Of a client: headless, gui, apple or android."""
    version: Version | None
    """None when it is no version: then nothing is kept from the device, and nobody is connected with it."""

    @property
    def can_move_sites(self) -> bool:
        return self._is_since(MOVES_SITES)

    @property
    def heard(self) -> Vocabulary:
        """What the device says."""
        return _WORDS[self.role, self.protocol][0]

    @property
    def said(self) -> Vocabulary:
        """What the device hears."""
        if self.role is Role.CLIENT and self.protocol == 1 and self._is_since(SAYS_SITES):
            return _SITES_IN_VERSION_1
        return _WORDS[self.role, self.protocol][1]

    def can_hear_of(self, kind: Kind) -> bool:
        """Tells whether a kind of resource means anything to the device."""
        return kind != "internet" or self.version is None or self.version >= HAS_INTERNET

    def pattern(self, address: str) -> str | None:
        """Returns a pattern of names as the device reads it; None when it has no way to say it."""
        if self.version is None or self.version >= HAS_PATTERNS:
            return address
        rest = address.lstrip("*")
        if "*" in rest or "?" in rest:
            return None
        if address.startswith("**."):
            return "*" + rest
        return "?" + rest if address.startswith("*.") else (address if rest == address else None)

    def _is_since(self, first: dict[str, Version]) -> bool:
        needed = first.get(self.component)
        return needed is not None and self.version is not None and self.version >= needed


def dialect_of(role: Role, protocol: int, user_agent: str, version: str) -> Dialect:
    """Returns the dialect of a device that has come to a path with a user agent."""
    return Dialect(role, protocol, component_of(user_agent), parse_version(version))


def component_of(user_agent: str) -> str:
    """Returns which client a user agent means. The baseline's headless client counts as a GUI, since it names no component."""
    for component in ("headless", "gui", "apple", "android"):
        if f"{component}-client/" in user_agent:
            return component
    if user_agent.startswith(("Mac OS", "macOS", "iOS")):
        return "apple"
    return "android" if user_agent.startswith("Android") else "gui"


def parse_version(text: str) -> Version | None:
    """Reads a semantic version. None when it is none."""
    match = _SEMVER.fullmatch(text)
    return None if match is None else (int(match[1]), int(match[2]), int(match[3]))


def version_of(user_agent: str) -> str | None:
    """Returns the version in a user agent, None when no word of it names a component of ours."""
    for word in user_agent.split(" "):
        for component in COMPONENTS:
            if word.startswith(component):
                return word.removeprefix(component)
    return None


_WORDS: dict[tuple[Role, int], tuple[Vocabulary, Vocabulary]] = {
    (Role.CLIENT, 1): (client.TO_PORTAL, client.FROM_PORTAL),
    (Role.GATEWAY, 1): (gateway.TO_PORTAL, gateway.FROM_PORTAL),
    (Role.CLIENT, 2): (client2.TO_PORTAL, client2.FROM_PORTAL),
    (Role.GATEWAY, 2): (gateway2.TO_PORTAL, gateway2.FROM_PORTAL),
}
_SITES_IN_VERSION_1 = dataclasses.replace(client.FROM_PORTAL, spelling=NEWER_NAMES)
