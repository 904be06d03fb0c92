"""/etc/resolv.conf taken over and given back, such that a kill at any point loses nothing.

Three files: R is resolv.conf itself, B beside it the backup (`.before-firezone`), T the backup while it is written. R is recognised
as ours by its first line, as the original does, so either program recovers the other's crash. R is written in place, never
renamed: in a container it is a bind mount, and in place its owner, mode and attributes stay.

A write in place has moments between its system calls. What R can be in them, and how `find` tells:

    taking over    write ours at 0 ▸ cut        ours, or ours with the original's end: the first line is ours
    giving back    write B at 0 ▸ cut ▸ sync    B with our end: begins with B and ends with our last line
                                                pages of B with our end, or pages of B: B is longer than one page

Linux finishes the page it copies before it looks at a SIGKILL, so shorter texts are written whole or not at all. The process that
has taken over holds a lock on B; the kernel drops it however the process ends, so a lock tells a live client from a crashed one.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import ipaddress
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from firezone.base.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

RESOLV_CONF = Path("/etc/resolv.conf")
BACKUP_SUFFIX = ".before-firezone"
FIRST_LINE = "# BEGIN Firezone DNS configuration"
"""The original's mark. Another one would leave its crashed files to us, and ours to it, unrecognised."""
LAST_LINE = "# END Firezone DNS configuration"
_PAGE = 4096
_KNOWN = ("nameserver", "domain", "search", "sortlist", "options", "lookup", "family")


class Owner(enum.Enum):
    """Whose text resolv.conf holds."""

    OTHERS = "others"
    OURS = "ours"
    """Set by a Firezone client, or caught while it was given back."""


class ResolvConfError(ConfigError):
    """resolv.conf cannot be used; the message says why and what would help."""


@dataclass(slots=True)
class ResolverConfig:
    """The directives of a resolv.conf that survive a change of the nameservers."""

    nameservers: list[str] = field(default_factory=list)
    domain: str = ""
    search: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Whole lines of sortlist, lookup and family."""
    options: list[str] = field(default_factory=list)

    def render(self) -> str:
        """Returns the file's text, one item per line."""
        lines = [f"nameserver {server}" for server in self.nameservers]
        if self.domain:
            lines.append(f"domain {self.domain}")
        if self.search:
            lines.append(f"search {' '.join(self.search)}")
        lines += self.others
        lines += [f"options {option}" for option in self.options]
        return "\n".join(lines) + "\n"


def parse(text: str) -> ResolverConfig:
    """Reads a resolv.conf. Raises ResolvConfError naming the line that is none."""
    config = ResolverConfig()
    for number, raw in enumerate(text.splitlines(), 1):
        words = raw.split("#")[0].split(";")[0].split()
        if not words:
            continue
        directive, *rest = words
        if directive not in _KNOWN or not rest:
            raise ResolvConfError(f"line {number} of resolv.conf is not understood: {raw.strip()!r}. Correct or remove it.")
        match directive:
            case "nameserver":
                if not _is_address(rest[0]):
                    raise ResolvConfError(
                        f"line {number} of resolv.conf names a server that is no address: {rest[0]!r}. Correct it."
                    )
                config.nameservers.append(rest[0])
            case "domain":
                config.domain = rest[0]
            case "search":
                config.search = rest
            case "options":
                config.options += rest
            case _:
                config.others.append(" ".join(words))
    return config


def nameservers(text: str) -> list[str]:
    """Returns the servers a client can forward to, in order; none when the text is no resolv.conf. Scoped addresses are dropped."""
    try:
        return [server for server in parse(text).nameservers if "%" not in server]
    except ResolvConfError:
        return []


class ResolvConfFile:
    """One resolv.conf with its backup. Blocking; not for two threads at once."""

    def __init__(self, path: Path = RESOLV_CONF) -> None:
        self.path = path
        self.backup = path.with_name(path.name + BACKUP_SUFFIX)
        self._draft = path.with_name(path.name + BACKUP_SUFFIX + ".new")
        self._lock: int | None = None
        """The backup, open and locked, while we hold resolv.conf."""

    @property
    def is_held(self) -> bool:
        """Whether this object has taken resolv.conf over."""
        return self._lock is not None

    def find(self) -> Owner:
        """Tells whose text stands in resolv.conf now. A link or a missing file is others'. Raises ResolvConfError."""
        if not self._is_regular():
            return Owner.OTHERS
        text = self._read(self.path)
        if text.startswith(FIRST_LINE.encode()):
            return Owner.OURS
        return Owner.OURS if _is_torn(text, self._backup_or_none()) else Owner.OTHERS

    def check(self) -> None:
        """Raises ResolvConfError when `take_over` is bound to fail, without changing anything."""
        self._require_regular()
        text = self._read(self.path)
        if self.find() is Owner.OTHERS:
            parse(_decode(text))
        with self._errors("written"):
            os.close(os.open(self.path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC))

    def take_over(self, servers: list[str], search_domain: str | None) -> None:
        """Lets resolv.conf name these servers; what stood there goes to the backup first.

        Raises: ResolvConfError; resolv.conf is untouched then.
        """
        self._require_regular()
        with self._errors("written"):
            file = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            is_ours = self.find() is Owner.OURS
            original = self._original() if is_ours else self._read(self.path)
            config = parse(_decode(original))
            config.nameservers = list(servers)
            config.domain, config.search = "", [search_domain] if search_domain else []
            config.options = [option for option in config.options if not option.startswith("ndots:")] + ["ndots:1"]
            if not is_ours:
                self._write_backup(original, os.fstat(file).st_mode)
            self._take_lock()
            with self._errors("written"):
                _write_in_place(file, self._ours(config))
        except BaseException:
            # Nothing of ours stands in resolv.conf: the backup would only be litter.
            if self.find() is Owner.OTHERS:
                self._drop_backup()
            raise
        finally:
            os.close(file)

    def give_back(self) -> bool:
        """Puts the original back if our text still stands there, and removes the backup.

        Returns: whether anything was put back. A text that others wrote meanwhile stays.
        Raises: ResolvConfError when it cannot, or when a live client holds it.
        """
        if not self.is_held and self._is_locked_by_another():
            raise ResolvConfError(
                f"{self.path} is controlled by a Firezone client that is running. Stop it: it puts the file back."
            )
        with contextlib.suppress(OSError):
            self._draft.unlink(missing_ok=True)  # Of somebody who was killed while it was written.
        if self.find() is Owner.OTHERS:
            self._forget_backup()
            return False
        original = self._original()
        with self._errors("put back"):
            file = os.open(self.path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _write_in_place(file, original)
                os.fsync(file)
            finally:
                os.close(file)
        self._drop_backup()
        return True

    def system_resolvers(self) -> list[str]:
        """Returns the servers of the original, whoever holds resolv.conf; none when it cannot be read."""
        try:
            text = self._original() if self.find() is Owner.OURS else self._read(self.path)
            return nameservers(_decode(text))
        except ResolvConfError:
            return []

    def _ours(self, config: ResolverConfig) -> bytes:
        head = (
            f"{FIRST_LINE}\n"
            "# The Firezone client manages this file while it runs; changes made here are lost.\n"
            f"# The original is in {self.backup} and comes back when the client ends.\n"
            "# After a crash, start the client again or run\n"
            "#   python -m firezone.client dns revert\n"
        )
        return f"{head}{config.render()}{LAST_LINE}\n".encode()

    def _original(self) -> bytes:
        text = self._backup_or_none()
        if text is None:
            raise ResolvConfError(
                f"{self.path} was set by a Firezone client, but its backup {self.backup} is gone. "
                f"Write the nameservers of your network into {self.path} and start again."
            )
        return text

    def _backup_or_none(self) -> bytes | None:
        try:
            return self.backup.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ResolvConfError(f"{self.backup} cannot be read: {error.strerror}.") from error

    def _write_backup(self, text: bytes, mode: int) -> None:
        with self._errors("backed up"):
            with contextlib.suppress(FileNotFoundError):
                self._draft.unlink()
            file = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.fchmod(file, stat.S_IMODE(mode))
                _write_in_place(file, text)
                os.fsync(file)
            finally:
                os.close(file)
            self._draft.rename(self.backup)
            _sync_directory(self.backup.parent)

    def _take_lock(self) -> None:
        with self._errors("backed up"):
            lock = os.open(self.backup, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        old, self._lock = self._lock, lock
        if old is not None:
            os.close(old)  # Before the new one is locked: it may be the same file.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._release()
            raise ResolvConfError(
                f"{self.path} is controlled by another Firezone client that is running. Stop it first."
            ) from error

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _is_locked_by_another(self) -> bool:
        try:
            file = os.open(self.backup, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(file)
        return False

    def _drop_backup(self) -> None:
        self._release()
        with contextlib.suppress(OSError):
            self.backup.unlink(missing_ok=True)

    def _forget_backup(self) -> None:
        """Lets go of a file that others have written. A backup that says the same as the file, or that is ours, is litter."""
        is_litter = self.is_held or self._backup_or_none() == self._text_or_none()
        self._release()
        if is_litter:
            self._drop_backup()

    def _text_or_none(self) -> bytes | None:
        try:
            return self.path.read_bytes()
        except OSError:
            return None

    def _is_regular(self) -> bool:
        try:
            return stat.S_ISREG(self.path.lstat().st_mode)
        except OSError:
            return False

    def _require_regular(self) -> None:
        if self._is_regular():
            return
        if self.path.is_symlink():
            raise ResolvConfError(
                f"{self.path} is a link to {os.readlink(self.path)}, so another program manages it. "
                "Use --dns-control systemd-resolved where systemd-resolved runs, or disabled, or replace the link by a file."
            )
        raise ResolvConfError(
            f"{self.path} is not a file. Create it with the nameservers of your network, or use another --dns-control."
        )

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise ResolvConfError(f"{path} cannot be read: {error.strerror}.") from error

    @contextlib.contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ResolvConfError(f"{self.path} cannot be {verb}: {error.strerror}. {_advice(error, self.path)}") from error


def _advice(error: OSError, path: Path) -> str:
    match error.errno:
        case errno.EROFS:
            return f"{path.parent} is read-only: mount it writable, or use --dns-control systemd-resolved or disabled."
        case errno.EPERM:
            return f"It may be immutable (lsattr {path}): run chattr -i {path}, or use --dns-control disabled."
        case errno.EACCES:
            return "Start the client as root, or use --dns-control disabled."
        case errno.ENOSPC | errno.EDQUOT:
            return f"Make room on the file system of {path.parent}."
        case _:
            return "Use --dns-control disabled to leave it alone."


def _write_in_place(file: int, text: bytes) -> None:
    """Writes over what is there, then cuts: emptying it first would open a moment in which nobody could tell whose it is."""
    at = 0
    while at < len(text):
        at += os.pwrite(file, text[at:], at)
    os.ftruncate(file, len(text))


def _is_torn(text: bytes, backup: bytes | None) -> bool:
    """Tells whether a text is what a kill in the middle of giving the backup back leaves."""
    if backup is None or text == backup or not text.startswith(backup[:_PAGE]):
        return False
    has_our_end = text.endswith(f"{LAST_LINE}\n".encode())
    is_some_pages = bool(text) and len(text) % _PAGE == 0 and backup.startswith(text)
    return has_our_end or is_some_pages


def _decode(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise ResolvConfError(f"resolv.conf is not UTF-8 at byte {error.start}. Correct or remove that line.") from error


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
