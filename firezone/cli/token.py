"""The token: from the environment, from the service manager's credentials, or from a file that only root can read."""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from firezone.base.errors import ConfigError
from firezone.base.log import conceal
from firezone.base.secret import SecretText

log = structlog.get_logger(__name__)

_CREDENTIAL = "FIREZONE_TOKEN"
"""Name of the credential (`LoadCredential=` of a systemd unit)."""
_FORBIDDEN_MODE = 0o177


def take_environment_token() -> str | None:
    """Returns FIREZONE_TOKEN and removes it, so that no child process inherits it."""
    return os.environ.pop("FIREZONE_TOKEN", None)


def find_token(given: str | None, path: Path) -> SecretText:
    """Returns the token: as given, else the service manager's credential, else from the file. White space around it goes.

    Raises: ConfigError when there is none, or when others could read or replace the file.
    """
    text = (given or "").strip() or _read_credential() or _read_file(path)
    if not text:
        raise ConfigError(f"There is no token: neither $FIREZONE_TOKEN nor {path} has one. Get one from your portal.")
    conceal(text)
    return SecretText(text)


def _read_credential() -> str | None:
    """Reads what systemd keeps for this unit alone; it vouches for the modes."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return None
    return _read(Path(directory, _CREDENTIAL))


def _read_file(path: Path) -> str | None:
    try:
        status = path.stat()
    except OSError:
        return None
    if status.st_uid != 0:
        raise ConfigError(f"The token file {path} must belong to the root user, not to uid {status.st_uid}.")
    if status.st_gid != 0:
        raise ConfigError(f"The token file {path} must belong to the root group, not to gid {status.st_gid}.")
    if status.st_mode & _FORBIDDEN_MODE:
        raise ConfigError(f"The token file {path} has mode 0o{status.st_mode & 0o777:o}; it must be 0o400 or 0o600.")
    return _read(path)


def _read(path: Path) -> str | None:
    try:
        text = path.read_bytes().decode().strip()
    except UnicodeDecodeError as error:
        raise ConfigError(f"The token file {path} is not UTF-8 text.") from error
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            log.info("the token file cannot be read", path=str(path), error=error.strerror)
        return None
    if text:
        log.info("token loaded from file", path=str(path))
    return text or None
