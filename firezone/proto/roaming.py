"""Decides whether a change of the host's networks is worth starting over for. Pure: views, clocks and time come in.

A reset costs every connection, so it is made only when paths cannot have survived: when the way out of the host (interface, next
hop and source address of a family) became another one or was away for long, or when the host has slept. Everything else is
harmless: an interface of containers that comes up, a second network with a worse metric, a family gained, a privacy address
renewed; connections learn about such addresses as candidates. While there is no way out at all nothing is done: what is true
then is true for a moment, and taking addresses back would kill paths that work again when the link returns.

Suspend shows in two clocks of the kernel: CLOCK_BOOTTIME counts it, CLOCK_MONOTONIC does not, and nothing else lets them drift
apart. The wall clock would do as well until somebody sets it, and the kernel has no event for those who are not privileged.

Source: Firezone's apps 3.4 and 11; its newest version compares the wall clock with the monotonic one.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from firezone.base.timing import SECOND

if TYPE_CHECKING:
    from firezone.base.network_view import NetworkView, WayOut
    from firezone.base.timing import Instant

LONGEST_ABSENCE = 10 * SECOND
"""A way out that was away for longer counts as another one: ICE has given its paths up soon after (16.5 s), and routers forget
mappings of UDP from 30 s on. Half would reset where connections go on by themselves, double would wait for ICE where nothing
is left."""

LONGEST_NAP = 10 * SECOND
"""The same for a suspended host."""

SUSPEND_CHECK_INTERVAL = 2 * SECOND
"""How often the clocks are compared: the time until a wake is noticed at the latest."""


class Verdict(enum.Enum):
    """What a look at the networks means."""

    SAME = enum.auto()
    """Nothing that concerns us."""
    OTHER_ADDRESSES = enum.auto()
    """The same network with more or fewer addresses: offer those, keep everything."""
    AWAY = enum.auto()
    """No way out, and nothing to do about it."""
    BACK = enum.auto()
    """The way out is there again, and it is the one we had: go on, but do not let the portal wait."""
    MOVED = enum.auto()
    """Another network: start over."""


class Roaming:
    """Remembers on which network we are."""

    def __init__(self) -> None:
        self._view: NetworkView | None = None
        """Network that connections were made on."""
        self._away_since: Instant | None = None
        self._has_slept = False
        self._drift: int | None = None

    @property
    def is_away(self) -> bool:
        """Nothing leads out at the moment, and that may pass."""
        return self._away_since is not None

    def handle_view(self, view: NetworkView, now: Instant) -> Verdict:
        """Takes a look at the host and judges it. The first one is where we start from."""
        former = self._view
        if former is None:
            self._view = view
            return Verdict.OTHER_ADDRESSES
        if former.has_way_out and not view.has_way_out and not _is_other_island(former, view):
            if self._away_since is None:
                self._away_since = now
                return Verdict.AWAY
            return Verdict.SAME
        was_away = self._away_since is not None
        was_away_long = self._away_since is not None and now - self._away_since > LONGEST_ABSENCE
        is_other = was_away_long or self._has_slept or _has_moved(former, view)
        self._view, self._away_since, self._has_slept = view, None, False
        if is_other:
            return Verdict.MOVED
        if was_away:
            return Verdict.BACK
        return Verdict.SAME if view.addresses == former.addresses else Verdict.OTHER_ADDRESSES

    def handle_clocks(self, boot: Instant, monotonic: Instant) -> bool:
        """Compares CLOCK_BOOTTIME with CLOCK_MONOTONIC, read together. True: the host has slept; look at its networks."""
        drift = boot - monotonic
        slept = 0 if self._drift is None else drift - self._drift
        self._drift = drift
        # Two reads of clocks are never at one moment; a second stands far above that and below any suspend that matters.
        if slept < SECOND:
            return False
        self._has_slept = self._has_slept or slept > LONGEST_NAP
        return True


def _has_moved(former: NetworkView, view: NetworkView) -> bool:
    """Tells whether a family that had a way out has another or none."""
    if not former.has_way_out:
        # A closed network without a default route: there the addresses are all there is to know it by.
        return _is_other_island(former, view)
    return _is_lost(former.ipv4, view.ipv4) or _is_lost(former.ipv6, view.ipv6)


def _is_lost(former: WayOut | None, now: WayOut | None) -> bool:
    return former is not None and former != now


def _is_other_island(former: NetworkView, view: NetworkView) -> bool:
    return bool(former.addresses and view.addresses) and not set(former.addresses) & set(view.addresses)
