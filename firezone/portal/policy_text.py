"""The text of a policy file, edited without losing a comment.

A document is cut into the tables it consists of, each with its statements; whatever an edit does not concern stays as it is,
byte for byte. Values are written by tomlkit. Every result is read again and compared with what the edit was to do: a file that
is written in a way we cannot edit is refused, never damaged.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import tomlkit

from firezone.base.errors import ConfigError

_HEADER = re.compile(r"\s*\[\[\s*([A-Za-z0-9_-]+)\s*\]\]\s*(#.*)?")
_ANY_HEADER = re.compile(r"\s*\[.*\]\s*(#.*)?")


@dataclass(slots=True, eq=False)
class Statement:
    """One `key = value`, over as many lines as it takes."""

    key: str
    lines: list[str]
    comments: list[str]
    """Those inside and behind it."""


@dataclass(slots=True, eq=False)
class Block:
    """A table with everything up to the next one: lines are text, statements what has a key."""

    kind: str | None
    """Name of the array of tables it belongs to, None for anything else."""
    parts: list[str | Statement] = field(default_factory=list)

    def text(self) -> str:
        return "".join("".join(part.lines) if isinstance(part, Statement) else part for part in self.parts)

    def values(self) -> dict[str, Any]:
        """Returns what the table says."""
        found: dict[str, Any] = tomllib.loads(self.text())[self.kind or ""][0]
        return found

    def body_end(self) -> int:
        """Returns where the table ends for a reader: behind its last statement and the comments that stick to it."""
        end = max((index for index, part in enumerate(self.parts) if isinstance(part, Statement)), default=0) + 1
        while end < len(self.parts) and str(self.parts[end]).strip():
            end += 1
        return end


class PolicyText:
    """A policy document as text."""

    def __init__(self, text: str) -> None:
        """Raises ConfigError when the text is not TOML or written in a way that cannot be edited."""
        try:
            self._document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"The policy is not TOML: {error}.") from error
        self._newline = "\r\n" if "\r\n" in text else "\n"
        self._blocks = _cut(text)
        self._comments = Counter(comments_of(text))
        if self.text() != text:
            raise ConfigError("The policy is written in a way that cannot be edited here; edit it by hand.")
        for kind, tables in self._document.items():
            if isinstance(tables, list) and len(self._of(kind)) != len(tables):
                raise ConfigError(f"The policy has its {kind} tables not as [[{kind}]]; write them so, or edit it by hand.")

    def text(self) -> str:
        return "".join(block.text() for block in self._blocks)

    def tables(self, kind: str) -> list[dict[str, Any]]:
        """Returns the tables of a kind, in order."""
        return [dict(table) for table in self._document.get(kind, [])]

    def add(self, kind: str, values: dict[str, Any]) -> None:
        """Adds a table behind the others of its kind, or at the end."""
        self._end_last_line()
        newline = self._newline
        lines = [f"[[{kind}]]{newline}", *(f"{_key(key)} = {_value(value)}{newline}" for key, value in values.items())]
        others = self._of(kind)
        if others:
            block, at = others[-1], others[-1].body_end()
        else:
            block, at = self._blocks[-1], len(self._blocks[-1].parts)
        gap = [] if not block.text().strip() else [newline]
        tail = block.parts[at:]
        del block.parts[at:]
        block.parts += gap
        fresh = _cut("".join(lines))[-1]
        fresh.parts += tail
        self._blocks.insert(self._blocks.index(block) + 1, fresh)
        self._document.setdefault(kind, []).append(copy.deepcopy(values))
        self._verify()

    def set(self, kind: str, index: int, key: str, value: Any) -> None:
        """Gives a key of a table a value. Comments inside an old value stay, above it."""
        self._end_last_line()
        block = self._of(kind)[index]
        statement = next((part for part in block.parts if isinstance(part, Statement) and part.key == key), None)
        if statement is None:
            at = max((i for i, part in enumerate(block.parts) if isinstance(part, Statement)), default=0) + 1
            text = f"{_key(key)} = {_value(value)}{self._newline}"
            block.parts.insert(at, Statement(key, [text], []))
        else:
            parsed = tomlkit.parse("".join(statement.lines))
            parsed[key] = value
            text = tomlkit.dumps(parsed)
            left = Counter(statement.comments) - Counter(comments_of(text))
            statement.lines = [*(f"{comment}{self._newline}" for comment in left.elements()), text]
        self._document[kind][index][key] = copy.deepcopy(value)
        self._verify()

    def remove(self, kind: str, index: int) -> None:
        """Takes a table out. Its comments stay where they were, each on a line of its own."""
        block = self._of(kind)[index]
        kept: list[str | Statement] = []
        for part in block.parts:
            if isinstance(part, Statement):
                kept += [f"{comment}{self._newline}" for comment in part.comments]
            elif _ANY_HEADER.fullmatch(part.rstrip("\r\n")):
                kept += [f"{comment}{self._newline}" for comment in comments_of(part)]
            else:
                kept.append(part)
        where = self._blocks.index(block)
        # A table always has something before it, be it empty.
        self._blocks[where - 1].parts += kept
        del self._blocks[where]
        del self._document[kind][index]
        if not self._document[kind]:
            del self._document[kind]
        self._verify()

    def _end_last_line(self) -> None:
        """Gives the last line an end, so that something can follow it."""
        parts = self._blocks[-1].parts
        if not parts or self._blocks[-1].text().endswith("\n"):
            return
        last = parts[-1]
        if isinstance(last, Statement):
            last.lines[-1] += self._newline
        else:
            parts[-1] = last + self._newline

    def _of(self, kind: str) -> list[Block]:
        return [block for block in self._blocks if block.kind == kind]

    def _verify(self) -> None:
        """Reads the result again: it must say what was to be said, and have every comment."""
        text = self.text()
        try:
            is_right = tomllib.loads(text) == self._document
        except tomllib.TOMLDecodeError:
            is_right = False
        if not is_right or self._comments - Counter(comments_of(text)):
            raise ConfigError("The policy is written in a way that cannot be edited here; edit it by hand. Nothing was changed.")


def comments_of(text: str) -> list[str]:
    """Returns every comment of a TOML text, from `#` to the end of its line."""
    lines = _lines(text)
    found: list[str] = []
    number = 0
    while number < len(lines):
        last, comments = _statement_end(lines, number)
        found += comments
        number = last + 1
    return found


def _lines(text: str) -> list[str]:
    """Splits at the line ends of TOML; str.splitlines knows others, which may stand in a string or comment."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _cut(text: str) -> list[Block]:
    """Cuts a text into tables, the first being what stands before any."""
    lines = _lines(text)
    blocks = [Block(None)]
    number = 0
    while number < len(lines):
        line = lines[number].rstrip("\r\n")
        header = _HEADER.fullmatch(line)
        if header is not None or _ANY_HEADER.fullmatch(line):
            blocks.append(Block(header[1] if header is not None else None, [lines[number]]))
            number += 1
            continue
        last, comments = _statement_end(lines, number)
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            blocks[-1].parts.append(lines[number])
        else:
            key = next(iter(tomllib.loads("".join(lines[number : last + 1]))))
            blocks[-1].parts.append(Statement(key, lines[number : last + 1], comments))
        number = last + 1
    return blocks


def _statement_end(lines: list[str], first: int) -> tuple[int, list[str]]:
    """Returns the last line of what begins on a line, and the comments on the way."""
    depth, quote, comments = 0, "", []
    for number in range(first, len(lines)):
        line, at = lines[number].rstrip("\r\n"), 0
        while at < len(line):
            char = line[at]
            if quote:
                at, quote = _in_long_string(line, at, quote)
            elif char == "#":
                comments.append(line[at:].rstrip())
                break
            elif line.startswith(('"""', "'''"), at):
                quote, at = line[at : at + 3], at + 3
            elif char in "\"'":
                at = _string_end(line, at)
            else:
                depth += (char in "[{") - (char in "]}")
                at += 1
        if not quote and depth <= 0:
            return number, comments
    return len(lines) - 1, comments


def _in_long_string(line: str, at: int, quote: str) -> tuple[int, str]:
    if quote == '"""' and line[at] == "\\":
        return at + 2, quote
    if not line.startswith(quote, at):
        return at + 1, quote
    at += 3
    while at < len(line) and line[at] == quote[0]:
        at += 1  # Up to two quotes may stand before the three that end it.
    return at, ""


def _string_end(line: str, at: int) -> int:
    quote, at = line[at], at + 1
    while at < len(line) and line[at] != quote:
        at += 2 if quote == '"' and line[at] == "\\" else 1
    return at + 1


def _key(key: str) -> str:
    return tomlkit.key(key).as_string()


def _value(value: Any) -> str:
    text: str = tomlkit.item(value).as_string()
    return text
