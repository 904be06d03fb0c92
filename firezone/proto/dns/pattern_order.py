"""Which of several patterns that match a name is the more specific, and finding them without trying them all.

Source: client 3.3. The order compares patterns from the right; at the first difference the end of a pattern comes first, then
literal characters, the larger one first, then `?`, then `*`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from firezone.wire.domain_pattern import is_pattern, matches

if TYPE_CHECKING:
    from collections.abc import Iterator

_WILD = frozenset("?*[")
_HIGHEST = 0x110000


def specificity(pattern: str) -> tuple[int, ...]:
    """Returns a key by which patterns sort, the most specific first."""
    return tuple(map(_rank, reversed(pattern.lower().removesuffix("."))))


def _rank(character: str) -> int:
    if character == "?":
        return _HIGHEST
    return _HIGHEST + 1 if character == "*" else _HIGHEST - 1 - ord(character)


class PatternIndex:
    """Patterns by the labels at their right end that are literal."""

    def __init__(self) -> None:
        self._patterns: dict[str, set[str]] = {}
        """By their literal end; a pattern without wildcards is all end."""

    def add(self, pattern: str) -> None:
        """Adds a pattern. One that cannot be read matches nothing."""
        if is_pattern(pattern):
            self._patterns.setdefault(_literal_end(pattern), set()).add(pattern)

    def discard(self, pattern: str) -> None:
        """Removes a pattern if it is there."""
        end = _literal_end(pattern)
        if (patterns := self._patterns.get(end)) is not None:
            patterns.discard(pattern)
            if not patterns:
                del self._patterns[end]

    def matching(self, name: str) -> list[str]:
        """Returns the patterns that match a name, the most specific first."""
        name = name.lower().removesuffix(".")
        found = {
            pattern for end in _ends(name) for pattern in self._patterns.get(end, ()) if pattern == name or matches(pattern, name)
        }
        return sorted(found, key=specificity)


def _ends(name: str) -> Iterator[str]:
    """Yields a name, and what is left of it without its first labels, down to nothing."""
    yield name
    while name:
        name = name.partition(".")[2]
        yield name


def _literal_end(pattern: str) -> str:
    labels = pattern.lower().removesuffix(".").split(".")
    first = next((place for place in range(len(labels), 0, -1) if not _WILD.isdisjoint(labels[place - 1])), 0)
    return ".".join(labels[first:])
