"""May this user reach this resource now, and until when?

Source: portal protocol section 9.7.
"""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from firezone.proto.portal.model import Hours, Policy, PolicyBook, Resource
from firezone.wire.portal.shared import UnixSeconds


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome over all policies that link a user to a resource."""

    is_known: bool
    """Some policy names the user and the resource, whether its conditions hold or not."""
    is_permitted: bool
    expires_at: UnixSeconds | None
    """End of the permission that lasts longest; None never ends."""
    policy_id: str | None = None
    """The policy that permits it for longest."""
    violated: tuple[str, ...] = ()
    """The conditions that failed, by the protocol's names."""


_NOTHING = Verdict(is_known=False, is_permitted=False, expires_at=None)


def judge(book: PolicyBook, user_id: str, resource: Resource, remote_ip: str, utc_s: int) -> Verdict:
    """Evaluates every policy of a user for a resource: conditions of one must all hold, one policy is enough."""
    user = book.users.get(user_id)
    if user is None or not user.is_enabled:
        return _NOTHING
    policies = [policy for policy in book.policies_of(resource.id) if user_id in policy.user_ids]
    if not policies:
        return _NOTHING
    violated: dict[str, None] = {}
    permitted: list[tuple[UnixSeconds | None, str]] = []
    for policy in policies:
        failed, expires_at = _conditions(policy, remote_ip, utc_s)
        if failed:
            violated.update(dict.fromkeys(failed))
        else:
            permitted.append((expires_at, policy.id))
    if not permitted:
        return Verdict(is_known=True, is_permitted=False, expires_at=None, violated=tuple(violated))
    expires_at, policy_id = max(permitted, key=lambda found: math.inf if found[0] is None else found[0])
    return Verdict(is_known=True, is_permitted=True, expires_at=expires_at, policy_id=policy_id)


def earlier(*expiries: UnixSeconds | None) -> UnixSeconds | None:
    """Returns the earliest of some expiries, None standing for never."""
    return min((expiry for expiry in expiries if expiry is not None), default=None)


def _conditions(policy: Policy, remote_ip: str, utc_s: int) -> tuple[list[str], UnixSeconds | None]:
    """Returns the names of the conditions that fail, and the earliest end of those that hold."""
    failed: list[str] = []
    if (policy.remote_ip is not None or policy.remote_ip_not) and not _is_from(policy, remote_ip):
        failed.append("remote_ip")
    ends: list[UnixSeconds | None] = [policy.expires_at]
    if policy.expires_at is not None and utc_s >= policy.expires_at:
        failed.append("current_utc_datetime")
    if policy.hours is not None:
        end = _end_of_hours(policy.hours, utc_s)
        ends.append(end)
        if end is None and "current_utc_datetime" not in failed:
            failed.append("current_utc_datetime")
    return failed, earlier(*ends)


def _is_from(policy: Policy, remote_ip: str) -> bool:
    address = ipaddress.ip_address(remote_ip)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    is_inside = policy.remote_ip is None or any(address in network for network in policy.remote_ip)
    return is_inside and not any(address in network for network in policy.remote_ip_not)


def _end_of_hours(hours: tuple[Hours, ...], utc_s: int) -> UnixSeconds | None:
    """Returns the end of the merged spans that hold now, None when none does. Both ends of a span count as inside."""
    now = datetime.fromtimestamp(utc_s, UTC)
    end: datetime | None = None
    for _ in hours:
        moment = now if end is None else end + timedelta(seconds=1)
        later = max((found for span in hours if (found := _end_of_span(span, moment)) is not None), default=None)
        if later is None or (end is not None and later <= end):
            break
        end = later
    return None if end is None else UnixSeconds(int(end.timestamp()))


def _end_of_span(span: Hours, moment: datetime) -> datetime | None:
    local = moment.astimezone(span.zone)
    if local.weekday() != span.weekday or not span.start <= local.time().replace(microsecond=0) <= span.end:
        return None
    return local.replace(hour=span.end.hour, minute=span.end.minute, second=span.end.second, microsecond=0).astimezone(UTC)
