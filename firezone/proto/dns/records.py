"""Addresses made up for names: four of each family, the same for a name as long as the process lives.

Programs keep addresses long after they asked, so a name keeps its own when its resource goes, when the portal is gone and when the
network changes. What is stored of a name is the number of its block: the addresses follow from it.

Source: client 1.1, 8.6, 8.7, 15.3.
"""

from __future__ import annotations

import ipaddress
import itertools
from typing import TYPE_CHECKING

from firezone.base.net import PROXY_V4, PROXY_V6, SENTINEL_V4

if TYPE_CHECKING:
    from collections.abc import Callable

    from firezone.base.net import Address

PER_FAMILY = 4
"""Addresses of a name in each family."""
MAX_NAMES = 1 << 17
"""Names remembered: about 35 MiB. The one not in use that was not asked for longest gives way; its addresses are another's only
when all others have been given out once."""

MAX_IN_USE = 1 << 15
"""Names in use that are passed over for one that is not; twice as many as set-ups may be."""

_FIRST_V4, _FIRST_V6 = int(PROXY_V4.network_address) + 1, int(PROXY_V6.network_address)
_SENTINELS = int(SENTINEL_V4.network_address)
_BEFORE_SENTINELS = _SENTINELS - _FIRST_V4
BLOCKS = (PROXY_V4.num_addresses - 2 - SENTINEL_V4.num_addresses) // PER_FAMILY
"""Blocks of four IPv4 addresses, without those of the network, of broadcast and of the sentinels."""


class ProxyAddresses:
    """Names and their addresses. Names compare without case; what is given back is as it was asked for first."""

    def __init__(self, *, most_names: int = MAX_NAMES) -> None:
        self._most_names = most_names
        self._blocks: dict[str, int] = {}
        """By name in lower case, the one asked for last at the end."""
        self._names: dict[int, str] = {}
        self._next = 0
        self.is_in_use: Callable[[str], bool] = lambda name: False
        """Told a name in lower case; one that is in use does not give way. Few may be: they are asked about one after the other."""

    def __len__(self) -> int:
        return len(self._blocks)

    def assign(self, name: str) -> tuple[Address, ...]:
        """Returns the addresses of a name, IPv4 first; a new name gets the next ones."""
        key = name.lower()
        block = self._blocks.pop(key, None)
        if block is None:
            if len(self._blocks) >= self._most_names:
                self._make_place()
            block = self._take()
            self._names[block] = name
        self._blocks[key] = block
        return _addresses(block)

    def of_name(self, name: str) -> tuple[Address, ...]:
        """Returns the addresses of a name that was asked for; none for another."""
        block = self._blocks.get(name.lower())
        return () if block is None else _addresses(block)

    def name_of(self, address: Address) -> str | None:
        """Returns the name an address was made up for, as it was first asked for."""
        block = _block_of(address)
        return None if block is None else self._names.get(block)

    def _take(self) -> int:
        while self._next in self._names:
            self._next = (self._next + 1) % BLOCKS
        block, self._next = self._next, (self._next + 1) % BLOCKS
        return block

    def _make_place(self) -> None:
        for key in [*itertools.islice(self._blocks, MAX_IN_USE)]:
            block = self._blocks.pop(key)
            if not self.is_in_use(key):
                del self._names[block]
                return
            self._blocks[key] = block
        del self._names[self._blocks.pop(next(iter(self._blocks)))]


def _addresses(block: int) -> tuple[Address, ...]:
    places = range(block * PER_FAMILY, (block + 1) * PER_FAMILY)
    skip = SENTINEL_V4.num_addresses
    v4 = (_FIRST_V4 + place + (skip if place >= _BEFORE_SENTINELS else 0) for place in places)
    return (*map(ipaddress.IPv4Address, v4), *(ipaddress.IPv6Address(_FIRST_V6 + place) for place in places))


def _block_of(address: Address) -> int | None:
    """Returns the block of an address whether or not a name has it; None outside the ranges."""
    if isinstance(address, ipaddress.IPv6Address):
        place = int(address) - _FIRST_V6
    elif address in SENTINEL_V4:
        return None
    else:
        place = int(address) - _FIRST_V4
        place -= SENTINEL_V4.num_addresses if place > _BEFORE_SENTINELS else 0
    block = place // PER_FAMILY
    return block if 0 <= block < BLOCKS else None
