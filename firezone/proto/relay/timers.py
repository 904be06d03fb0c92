"""Deadlines of many things, each of which moves often: a heap whose entries may be out of date.

Moving a deadline back, which every refresh does, touches no heap; an entry that comes up too early is put back at its real
time. So a busy relay pays for a refresh with one dictionary write.
"""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

from firezone.base.timing import Instant

Key = TypeVar("Key")

_SLACK = 64
"""Out-of-date entries tolerated beyond as many as there are live ones, before the heap is made anew."""


class Timers(Generic[Key]):
    """Keys and when each is due. Equal deadlines come up in the order in which they were set."""

    def __init__(self) -> None:
        self._due: dict[Key, Instant] = {}
        self._armed: dict[Key, int] = {}
        """Serial number of the entry that stands for the key; other entries of it are void."""
        self._heap: list[tuple[Instant, int, Key]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._due)

    def set(self, key: Key, due: Instant) -> None:
        """Sets or moves the deadline of a key."""
        before = self._due.get(key)
        self._due[key] = due
        if before is None or due < before:
            self._arm(key, due)

    def cancel(self, key: Key) -> None:
        """Forgets a key; unknown ones do no harm."""
        if self._due.pop(key, None) is not None:
            del self._armed[key]

    def next_due(self) -> Instant | None:
        """Returns the earliest deadline, exactly; None when there is none."""
        self._clean()
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: Instant) -> Key | None:
        """Returns and forgets the first key whose deadline has come."""
        self._clean()
        if not self._heap or self._heap[0][0] > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._due[key], self._armed[key]
        return key

    def _arm(self, key: Key, due: Instant) -> None:
        if len(self._heap) > 2 * len(self._due) + _SLACK:
            self._heap = [entry for entry in self._heap if self._armed.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)
        self._serial += 1
        self._armed[key] = self._serial
        heapq.heappush(self._heap, (due, self._serial, key))

    def _clean(self) -> None:
        """Brings an entry to the top that is in force and says the real deadline."""
        while self._heap:
            armed, serial, key = self._heap[0]
            if self._armed.get(key) != serial:
                heapq.heappop(self._heap)
            elif self._due[key] > armed:
                heapq.heapreplace(self._heap, (self._due[key], serial, key))
            else:
                return
