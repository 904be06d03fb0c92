"""The faults, and how long a user may notice each."""

from __future__ import annotations

from dataclasses import dataclass

UNNOTICED_S = 0.2
"""A gap that nobody sees."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table."""

    name: str
    what: str
    limit_s: float
    """Longest gap of the steady flow."""
    is_after: bool = False
    """The limit counts from the end of the fault, which itself is a gap."""
    may_break: bool = False
    """A download may have to be begun anew."""
    is_about_new: bool = False
    """The limit is about connections that are opened anew, too."""
    is_relayed: bool = False
    """Runs where there is no way but over relays."""

    @property
    def download_limit_s(self) -> float | None:
        """Longest gap of a download: that of the flow, although TCP doubles the time to its next try and so comes late.

        None after a loss of half a minute or more, when its next try may be as far away, through no fault of the tunnel.
        """
        return None if self.is_after or self.may_break else self.limit_s

    @property
    def patience_s(self) -> float:
        """When waiting makes no sense any more: TCP tries again 51 s after the beginning of a fault, or 102."""
        return 75.0 if self.is_after else 3 * self.limit_s + 15.0


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("portal-restart", "portal killed and restarted", UNNOTICED_S),
        Fault("relay-appears", "a second relay appears", UNNOTICED_S, is_relayed=True),
        Fault("relay-of-peer", "relay that is not in use restarts", UNNOTICED_S, is_relayed=True),
        Fault("nat-rebinding", "NAT gives other ports", 3.0),
        Fault("address-change", "client changes address", 3.0),
        Fault("link-lost", "client's link away for a minute", 3.0, is_after=True),
        Fault("relay-killed", "relay in use killed, another known", 20.0, is_relayed=True),
        Fault("relay-silent", "relay in use falls silent, another known", 20.0, is_relayed=True),
        Fault("relay-restart", "relay in use restarts with another secret", 20.0, is_relayed=True),
        Fault("gateway-restart", "gateway killed, restarted after 1 s", 25.0, may_break=True, is_about_new=True),
        Fault("total-loss", "30 s of total loss", 3.0, is_after=True),
    )
}
