"""What the relay did, in numbers for people and for `responses_total` (relay specification, section 12.3)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from firezone.wire.stun import Method

_NAMES: dict[int, str] = {
    Method.BINDING: "binding",
    Method.ALLOCATE: "allocate",
    Method.REFRESH: "refresh",
    Method.CHANNEL_BIND: "channelbind",
    Method.CREATE_PERMISSION: "createpermission",
}


@dataclass(slots=True)
class RelayCounters:
    """Counts since the start; `allocations`, `channels` and `permissions` are those that stand now."""

    allocations: int = 0
    channels: int = 0
    """Bound ones; cooling ones carry nothing."""
    permissions: int = 0
    responses: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By method and error code, 0 for success. Never by address."""
    ignored: int = 0
    """Datagrams that deserved no answer."""
    indications_sent: int = 0
    """Datagrams of peers handed to clients as Data indications, and Send indications relayed."""

    def responded(self, method: int, code: int = 0) -> None:
        """Counts one response; those to methods we do not know are not counted, or anybody could name new ones."""
        if method in _NAMES:
            self.responses[_NAMES[method], code] += 1

    def as_dict(self) -> dict[str, object]:
        """Returns the numbers as JSON can hold them."""
        return {
            "allocations": self.allocations,
            "channels": self.channels,
            "permissions": self.permissions,
            "responses": [
                {
                    "message_type": method,
                    "response_class": "error" if code else "success",
                    **({"error_code": code} if code else {}),
                    "count": count,
                }
                for (method, code), count in sorted(self.responses.items())
            ],
            "ignored": self.ignored,
            "indications": self.indications_sent,
        }
