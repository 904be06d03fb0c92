"""Values that must never reach a log: they compare and hash like what they hold, and print as stars.

Neither class derives from bytes or str, so that no format string, join or logger can show the value by accident.
"""

from __future__ import annotations

import hmac


class SecretBytes:
    """Key material. `reveal()` is the only way in."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        return self._value

    def __repr__(self) -> str:
        return "SecretBytes(***)"

    def __eq__(self, other: object) -> bool:
        return hmac.compare_digest(self._value, other._value) if isinstance(other, SecretBytes) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value)


class SecretText:
    """A password or token. `reveal()` is the only way in."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = str(value)

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "SecretText(***)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretText):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)
