"""What a relay and the portal tell each other (topic `relay`): a secret when joining, and an empty `init`.

Source: portal protocol section 8.
"""

from __future__ import annotations

from firezone.base.secret import SecretText
from firezone.wire.portal.shared import Message, Vocabulary

TOPIC = "relay"
SECRET_DIGITS = 64
_DIGITS = frozenset("0123456789abcdef")


class Join(Message, frozen=True):
    """The payload of the relay's join; made once per start of the relay."""

    stamp_secret: SecretText
    """Lower-case hex of 32 random bytes; the portal derives TURN credentials from it."""

    def __post_init__(self) -> None:
        if len(self.stamp_secret.reveal()) != SECRET_DIGITS or not _DIGITS.issuperset(self.stamp_secret.reveal()):
            raise ValueError(f"stamp_secret is not {SECRET_DIGITS} lower-case hex digits")


class Init(Message, frozen=True):
    """The join is complete. An object whose members mean nothing."""


FROM_PORTAL = Vocabulary(names={Init: "init"}, accepted={"init": Init})
TO_PORTAL = Vocabulary(names={Join: "phx_join"}, accepted={"phx_join": Join})
