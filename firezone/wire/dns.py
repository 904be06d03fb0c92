"""DNS messages as far as a stub resolver must read and write them: one question, and answers made up for it.

Answers of other servers are passed on as they are; the cache reads their records by `read_answer`. dnspython does what is rare.

Source: RFC 1035 section 4, RFC 6891 for what stands behind the question; client 8.2, 8.5.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HEADER = 12
MAX_UDP_ANSWER = 1212
"""Bytes of an answer that fit a packet of 1280 with the longest headers of IP and UDP; EDNS is not asked (client 1.2)."""
STUB_TTL = 1
"""Seconds: names move between made-up and real addresses when resources change."""
_QR, _TC, _RD, _RA, _RD_AND_OPCODE, _RCODE = 0x8000, 0x0200, 0x0100, 0x0080, 0x7900, 0x000F
_MAX_NAME, _MAX_LABEL = 255, 63
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


class RecordType(enum.IntEnum):
    """The types that are treated specially."""

    A = 1
    PTR = 12
    TXT = 16
    AAAA = 28
    SRV = 33
    HTTPS = 65


class ResponseCode(enum.IntEnum):
    NO_ERROR = 0
    SERVER_FAILURE = 2
    NAME_ERROR = 3


@dataclass(frozen=True, slots=True)
class Question:
    """The only question of a message."""

    message: bytes
    name: str
    """In presentation form without the last dot, in the case it was asked; empty for the root."""
    kind: int
    """Of record, as on the wire."""
    end: int
    """Where the question ends in the message."""

    @property
    def id(self) -> int:
        return int.from_bytes(self.message[:2], "big")


@dataclass(frozen=True, slots=True)
class Record:
    """One record of an answer."""

    kind: int
    ttl: int
    ttl_at: int
    """Offset of the TTL."""
    end: int
    """Where the record ends."""


def read_question(message: bytes) -> Question | None:
    """Reads a query; None for what is none: an answer, not one question, records that are cut off."""
    if len(message) < HEADER or message[2] & 0x80 or message[4:6] != b"\0\1":
        return None
    found = _read_name(message, HEADER)
    if found is None or found[1] + 4 > len(message):
        return None
    name, at = found
    question = Question(message, name, int.from_bytes(message[at : at + 2], "big"), at + 4)
    if message[6:12] != bytes(6):
        counts = (int.from_bytes(message[place : place + 2], "big") for place in (6, 8, 10))
        if _skip_records(message, question.end, sum(counts)) is None:
            return None
    return question


def is_question(message: bytes) -> bool:
    """Tells whether a message is a query with one question, all of it readable."""
    return read_question(message) is not None


def is_answer_to(answer: bytes, question: Question) -> bool:
    """Tells whether a message answers a question: id, opcode and the question itself are the same, but for case."""
    end = question.end
    return (
        len(answer) >= end
        and answer[2] & 0x80 != 0
        and answer[:2] == question.message[:2]
        and (answer[2] ^ question.message[2]) & 0x78 == 0
        and answer[4:6] == b"\0\1"
        and answer[HEADER : end - 4].lower() == question.message[HEADER : end - 4].lower()
        and answer[end - 4 : end] == question.message[end - 4 : end]
    )


def local_answer(
    question: Question, records: Iterable[bytes] = (), *, code: ResponseCode = ResponseCode.NO_ERROR, ttl: int = STUB_TTL
) -> bytes:
    """Returns an answer of our own: records of the question's name and type with these data, nothing else (client 8.5)."""
    head = (question.kind << 16 | 1).to_bytes(4, "big") + ttl.to_bytes(4, "big")
    owner = question.message[HEADER : question.end - 4]
    answers = [owner + head + len(data).to_bytes(2, "big") + data for data in records]
    return _head(question.message, code, len(answers)) + question.message[HEADER : question.end] + b"".join(answers)


def servfail(message: bytes) -> bytes:
    """Returns the answer "server failure" to a readable query."""
    return _head(message, ResponseCode.SERVER_FAILURE, 0) + message[HEADER : _question_end(message)]


def truncated(answer: bytes) -> bytes:
    """Returns an answer without records, which tells its reader to ask over TCP."""
    flags = int.from_bytes(answer[2:4], "big") | _TC
    return answer[:2] + flags.to_bytes(2, "big") + b"\0\1" + bytes(6) + answer[HEADER : _question_end(answer)]


def fit_datagram(answer: bytes, limit: int = MAX_UDP_ANSWER) -> bytes:
    """Returns the answer, or without its records what fits."""
    return answer if len(answer) <= limit else truncated(answer)


def read_answer(answer: bytes, question: Question) -> list[Record] | None:
    """Reads the records of the answer section; None when the answer is an error, truncated, or cannot be read."""
    flags = int.from_bytes(answer[2:4], "big")
    if not is_answer_to(answer, question) or flags & (_TC | _RCODE):
        return None
    records, at = [], question.end
    for _ in range(int.from_bytes(answer[6:8], "big")):
        record = _read_record(answer, at)
        if record is None:
            return None
        records.append(record)
        at = record.end
    return records


def encode_name(name: str) -> bytes:
    """Encodes a name in presentation form. Raises ValueError for one that is too long."""
    encoded = b"".join(bytes((len(label),)) + label for label in _labels(name)) + b"\0"
    if len(encoded) > _MAX_NAME or any(not 0 < len(label) <= _MAX_LABEL for label in _labels(name)):
        raise ValueError(f"{name!r} is no domain name.")
    return encoded


def _head(query: bytes, code: int, answers: int) -> bytes:
    flags = _QR | int.from_bytes(query[2:4], "big") & _RD_AND_OPCODE | code
    return query[:2] + flags.to_bytes(2, "big") + b"\0\1" + answers.to_bytes(2, "big") + bytes(4)


def _read_name(message: bytes, at: int) -> tuple[str, int] | None:
    """Reads a name that is not compressed; returns it and where it ends."""
    labels: list[str] = []
    start = at
    while True:
        if at >= len(message) or at - start >= _MAX_NAME:
            return None
        size = message[at]
        at += 1
        if size == 0:
            return ".".join(labels), at
        if size > _MAX_LABEL or at + size > len(message):
            return None
        label = message[at : at + size]
        labels.append(label.decode() if _PLAIN.issuperset(label) else "".join(map(_escaped, label)))
        at += size


def _escaped(byte: int) -> str:
    """RFC 1035 5.1."""
    character = chr(byte)
    if character in '."\\();@$':
        return "\\" + character
    return character if 0x20 < byte < 0x7F else f"\\{byte:03d}"


def _labels(name: str) -> Iterator[bytes]:
    label, at = bytearray(), 0
    while at < len(name):
        character = name[at]
        at += 1
        if character == ".":
            yield bytes(label)
            label.clear()
        elif character != "\\":
            label += character.encode()
        elif name[at : at + 3].isdecimal():
            label.append(int(name[at : at + 3]))
            at += 3
        else:
            label += name[at : at + 1].encode()
            at += 1
    if name:
        yield bytes(label)


def _question_end(message: bytes) -> int:
    """Returns where the only question of a readable message ends."""
    at = _skip_name(message, HEADER)
    return HEADER if at is None or at + 4 > len(message) else at + 4


def _skip_name(message: bytes, at: int) -> int | None:
    """Returns where a name ends, compressed or not, without following it."""
    while at < len(message):
        size = message[at]
        if size == 0:
            return at + 1
        if size >= 0xC0:
            return at + 2
        if size > _MAX_LABEL:
            return None
        at += 1 + size
    return None


def _read_record(message: bytes, at: int) -> Record | None:
    place = _skip_name(message, at)
    if place is None or place + 10 > len(message):
        return None
    end = place + 10 + int.from_bytes(message[place + 8 : place + 10], "big")
    if end > len(message):
        return None
    ttl = int.from_bytes(message[place + 4 : place + 8], "big")
    return Record(int.from_bytes(message[place : place + 2], "big"), ttl, place + 4, end)


def _skip_records(message: bytes, at: int, count: int) -> int | None:
    for _ in range(count):
        record = _read_record(message, at)
        if record is None:
            return None
        at = record.end
    return at
