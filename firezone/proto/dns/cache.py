"""Answers of other servers, kept for as long as they may be.

Kept is what is no error, whole, and lives five seconds or more. It is emptied whenever servers or resources change: a name may be a
resource's from then on, or cease to be one.

Source: client 15.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from firezone.base.timing import SECOND
from firezone.wire.dns import HEADER, read_answer

if TYPE_CHECKING:
    from firezone.base.timing import Instant
    from firezone.wire.dns import Question

LEAST_TTL = 5
"""Seconds. Less is not worth the room, and is what our own answers live."""
MAX_ENTRIES = 2048
MAX_ANSWER = 4096
"""Bytes of an answer that is kept; with the entries 8 MiB at most."""
_FLAGS_OF_QUESTION, _QR = 0x7900, 0x8000


@dataclass(frozen=True, slots=True)
class _Entry:
    records: bytes
    """The answer section."""
    count: int
    ttls: tuple[tuple[int, int], ...]
    """Where in `records` each TTL stands, and what it was."""
    stored: Instant
    expires: Instant


class AnswerCache:
    """Answers by name and type."""

    def __init__(self, *, most_entries: int = MAX_ENTRIES) -> None:
        self._most_entries = most_entries
        self._entries: dict[tuple[str, int, bytes], _Entry] = {}
        """The oldest first."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, question: Question, now: Instant) -> bytes | None:
        """Returns the answer to a question with what is left of its records' time, None when there is none."""
        key = _key(question)
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry.expires:
            del self._entries[key]
            return None
        passed = (now - entry.stored) // SECOND
        records = bytearray(entry.records)
        for at, ttl in entry.ttls:
            records[at : at + 4] = (ttl - passed).to_bytes(4, "big")
        flags = _QR | int.from_bytes(question.message[2:4], "big") & _FLAGS_OF_QUESTION
        head = question.message[:2] + flags.to_bytes(2, "big") + b"\0\1" + entry.count.to_bytes(2, "big") + bytes(4)
        return head + question.message[HEADER : question.end] + bytes(records)

    def put(self, question: Question, answer: bytes, now: Instant) -> None:
        """Keeps an answer if it may be kept."""
        records = read_answer(answer, question)
        if not records or records[-1].end > MAX_ANSWER:
            return
        least = min((record.ttl for record in records if record.kind == question.kind), default=0)
        if not LEAST_TTL <= least < 1 << 31:  # RFC 2181 8: a TTL with the highest bit counts as 0.
            return
        while len(self._entries) >= self._most_entries:
            del self._entries[next(iter(self._entries))]
        # Any record may live shorter than those that were asked for: a chain of aliases ends when one of its links does.
        shortest = min(record.ttl for record in records)
        ttls = tuple((record.ttl_at - question.end, record.ttl) for record in records)
        key = _key(question)
        self._entries.pop(key, None)
        self._entries[key] = _Entry(
            answer[question.end : records[-1].end], len(records), ttls, now, now + min(least, shortest) * SECOND
        )  # fmt: skip

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()


def _key(question: Question) -> tuple[str, int, bytes]:
    return question.name.lower(), question.kind, question.message[question.end - 2 : question.end]
