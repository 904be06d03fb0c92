"""Changes of the policy file: found by name, checked as the portal would check it, replaced as a whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firezone.base.errors import ConfigError
from firezone.loop.portal_policy import parse_policy
from firezone.portal.policy_text import PolicyText

REFERENCES = {
    "site": (("gateway_token", "site"), ("resource", "sites")),
    "user": (("client_token", "user"), ("group", "members")),
    "group": (("policy", "group"),),
    "resource": (("policy", "resource"),),
}
"""By what is named: which tables name it under which key. One name or a list of them."""
TOKENS = ("gateway_token", "client_token", "relay_token")


class PolicyEdit:
    """The tables of a policy while they are edited."""

    def __init__(self, text: str, where: Path) -> None:
        self._policy = PolicyText(text)
        self._where = where

    def text(self) -> str:
        return self._policy.text()

    def tables(self, kind: str) -> list[dict[str, Any]]:
        return self._policy.tables(kind)

    def find(self, kind: str, name: str) -> int:
        """Returns the place of the table of this name. Raises ConfigError with the names there are."""
        names = [table.get("name") for table in self.tables(kind)]
        found = [index for index, other in enumerate(names) if other == name]
        word = kind.replace("_", " ")
        if not found:
            known = ", ".join(repr(other) for other in names if other) or "none"
            raise ConfigError(f"There is no {word} {name!r} in {self._where} (known: {known}).")
        if len(found) > 1:
            raise ConfigError(f"{self._where} has {len(found)} tables of the kind {word} named {name!r}; edit it by hand.")
        return found[0]

    def find_token(self, name: str) -> tuple[str, int]:
        """Returns kind and place of the token of this name. Raises ConfigError."""
        found = [
            (kind, index) for kind in TOKENS for index, table in enumerate(self.tables(kind)) if table.get("name") == name
        ]  # fmt: skip
        if not found:
            known = ", ".join(repr(table.get("name")) for kind in TOKENS for table in self.tables(kind)) or "none"
            raise ConfigError(f"There is no token {name!r} in {self._where} (known: {known}).")
        if len(found) > 1:
            kinds = ", ".join(kind.removesuffix("_token") for kind, _ in found)
            raise ConfigError(f"{len(found)} tokens are named {name!r} ({kinds}); give them names of their own in {self._where}.")
        return found[0]

    def find_policy(self, name: str) -> int:
        """Returns the place of a policy, by its name or as GROUP:RESOURCE. Raises ConfigError."""
        found = [index for index, table in enumerate(self.tables("policy")) if name in (table.get("name"), policy_name(table))]
        if len(found) == 1:
            return found[0]
        known = ", ".join(repr(policy_name(table)) for table in self.tables("policy")) or "none"
        if not found:
            raise ConfigError(f"There is no policy {name!r} in {self._where} (known: {known}).")
        raise ConfigError(f"{len(found)} policies are called {name!r}; give them names of their own in {self._where}.")

    def add(self, kind: str, values: dict[str, Any]) -> None:
        """Adds a table; what is None is left out."""
        self._policy.add(kind, {key: value for key, value in values.items() if value is not None})

    def set(self, kind: str, index: int, key: str, value: Any) -> None:
        self._policy.set(kind, index, key, value)

    def remove(self, kind: str, index: int) -> None:
        self._policy.remove(kind, index)

    def remove_named(self, kind: str, name: str, *, cascade: bool) -> list[str]:
        """Removes what is named with all that names it, or refuses when something does.

        Returns: what went with it, for people.
        Raises:  ConfigError naming what stands in the way.
        """
        index = self.find(kind, name)
        users = self._references(kind, name)
        if users and not cascade:
            what = "; ".join(word for _, _, _, word in users)
            raise ConfigError(f"The {kind} {name!r} is still used: {what}. Remove that first, or all of it with --cascade.")
        for other, place, key, _ in sorted(users, key=lambda user: -user[1]):
            value = self.tables(other)[place][key]
            if isinstance(value, list):
                self.set(other, place, key, [item for item in value if item != name])
            else:
                self.remove(other, place)
        self.remove(kind, index)
        return [word for _, _, _, word in users]

    def _references(self, kind: str, name: str) -> list[tuple[str, int, str, str]]:
        found = []
        for other, key in REFERENCES.get(kind, ()):
            for place, table in enumerate(self.tables(other)):
                value = table.get(key)
                if value == name or (isinstance(value, list) and name in value):
                    title = policy_name(table) if other == "policy" else table.get("name")
                    found.append((other, place, key, f"{other.replace('_', ' ')} {title!r}"))
        return found


@contextlib.contextmanager
def edit_policy(path: Path) -> Iterator[PolicyEdit]:
    """Lets a policy file be edited, and replaces it when the block ends without an error and the result is a good policy.

    A reader sees the old file or the new one, never a part. Two editors take turns.
    Raises: ConfigError; the file is then as it was.
    """
    target = path.resolve()
    with _locked(target) as text:
        edit = PolicyEdit(text, path)
        yield edit
        if edit.text() == text:
            return
        try:
            parse_policy(edit.text(), path)
        except ConfigError as error:
            raise ConfigError(f"Nothing was changed, for it would be wrong: {error}") from error
        try:
            _replace(target, edit.text())
        except OSError as error:
            raise ConfigError(f"The policy {path} cannot be written: {error.strerror}.") from error


def read_tables(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the tables of a good policy file. Raises ConfigError."""
    text = _read(path)
    parse_policy(text, path)
    return {kind: tables for kind, tables in tomllib.loads(text).items() if isinstance(tables, list)}


def policy_name(table: dict[str, Any]) -> str:
    """Returns how a policy is called where it has no name of its own."""
    return str(table.get("name") or f"{table.get('group')}:{table.get('resource')}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[str]:
    """Holds the lock of the file that has this path now, and gives its text."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            hint = "; `init` writes one" if isinstance(error, FileNotFoundError) else ""
            raise ConfigError(f"The policy {path} cannot be read: {error.strerror}{hint}.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Whoever held it may have put another file in its place.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    yield _read(path)
                    return
        finally:
            os.close(descriptor)


def _read(path: Path) -> str:
    try:
        # Not read_text: it would turn the line ends of Windows into our own.
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"The policy {path} cannot be read: {error.strerror}; `init` writes one.") from error
    except OSError as error:
        raise ConfigError(f"The policy {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"The policy {path} cannot be read: it is not UTF-8.") from error


def _replace(path: Path, text: str) -> None:
    """Puts a new file in the place of the old one, with its owner and mode."""
    status = path.stat()
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), status.st_mode & 0o7777)
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                with contextlib.suppress(PermissionError):
                    os.fchown(file.fileno(), status.st_uid, status.st_gid)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
