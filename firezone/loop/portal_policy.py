"""The policy file on disk: read it, say where it is wrong, notice when it changes."""

from __future__ import annotations

import tomllib
from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from firezone.base.errors import ConfigError
from firezone.proto.portal.config import find_line, read_policy
from firezone.proto.portal.config_values import PolicyError
from firezone.proto.portal.model import PolicyBook


class PolicyFile:
    """A policy file that is read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._signature: tuple[int, int, int] | None = None

    def load(self) -> PolicyBook:
        """Reads the file. Raises ConfigError that names file, line and key."""
        try:
            self._signature = self._stat()
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            hint = "; `init` writes one" if isinstance(error, FileNotFoundError) else ""
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigError(f"The policy {self._path} cannot be read: {reason}{hint}.") from error
        return parse_policy(text, self._path)

    def has_changed(self) -> bool:
        """Tells whether the file is another one than `load` saw; a file that is gone has not changed."""
        try:
            return self._stat() != self._signature
        except OSError:
            return False

    def _stat(self) -> tuple[int, int, int]:
        status = self._path.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size


def parse_policy(text: str, path: Path) -> PolicyBook:
    """Reads the text of a policy. Raises ConfigError that names `path`, line and key."""
    try:
        return read_policy(tomllib.loads(text), _zone)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}.") from error
    except PolicyError as error:
        line = find_line(text, error.where)
        place = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in error.where).lstrip(".")
        where = ", ".join(part for part in (f"line {line}" if line else "", place) if part)
        raise ConfigError(f"{path}, {where}: {error}." if where else f"{path}: {error}.") from error


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC  # Known without a time zone database.
    try:
        return ZoneInfo(name)
    except ZoneInfoNotFoundError as error:
        raise KeyError(name) from error
