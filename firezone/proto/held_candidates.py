"""Candidate changes that wait until the portal is reached again, so that peers learn what is true then and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firezone.base.errors import WireError
from firezone.wire.candidate import decode_candidate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from firezone.base.ids import ConnectionId

MAX_HELD = 128
"""Changes kept per connection; more would be of networks left long ago, so the oldest go."""


class HeldCandidates:
    """Per connection the candidates to announce and those to take back.

    A removal cancels a held addition and goes itself: the peer never heard of that candidate. An addition cancels a held
    removal and stays, which at worst tells the peer what it knows.

    Source: Firezone's snownet 14.1 (July 2026).
    """

    def __init__(self) -> None:
        self._added: dict[ConnectionId, dict[tuple[object, ...], str]] = {}
        self._removed: dict[ConnectionId, dict[tuple[object, ...], str]] = {}

    def __len__(self) -> int:
        return sum(len(lines) for held in (self._added, self._removed) for lines in held.values())

    def add(self, cid: ConnectionId, lines: Iterable[str]) -> None:
        """Holds candidates that are new."""
        for line in lines:
            key = _key(line)
            self._removed.get(cid, {}).pop(key, None)
            _keep(self._added.setdefault(cid, {}), key, line)

    def remove(self, cid: ConnectionId, lines: Iterable[str]) -> None:
        """Holds candidates that are gone."""
        for line in lines:
            key = _key(line)
            if self._added.get(cid, {}).pop(key, None) is None:
                _keep(self._removed.setdefault(cid, {}), key, line)

    def take(self, is_known: Callable[[ConnectionId], bool]) -> Iterator[tuple[ConnectionId, tuple[str, ...], bool]]:
        """Yields connection, lines and whether they are new: of every connection that is still known, additions first."""
        added, removed = self._added, self._removed
        self._added, self._removed = {}, {}
        for are_new, held in ((True, added), (False, removed)):
            for cid, lines in held.items():
                if lines and is_known(cid):
                    yield cid, tuple(lines.values()), are_new

    def forget(self, cid: ConnectionId) -> None:
        """Drops what waits for a connection that is no more."""
        self._added.pop(cid, None)
        self._removed.pop(cid, None)


def _keep(lines: dict[tuple[object, ...], str], key: tuple[object, ...], line: str) -> None:
    lines[key] = line
    if len(lines) > MAX_HELD:
        del lines[next(iter(lines))]


def _key(line: str) -> tuple[object, ...]:
    """Returns what tells candidates apart: a removal has another priority than the announcement, and no `ufrag`."""
    try:
        candidate = decode_candidate(line)
    except WireError:
        return (line,)
    return candidate.identity
