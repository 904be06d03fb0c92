"""The client's token: from the environment, or from a file that only root can read."""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from firezone.base.errors import ConfigError
from firezone.base.secret import SecretText

log = structlog.get_logger(__name__)

DEFAULT_TOKEN_PATH = Path("/etc/dev.firezone.client/token")
_FORBIDDEN_MODE = 0o177


def take_environment_token() -> str | None:
    """Returns FIREZONE_TOKEN and removes it, so that no child process inherits it."""
    return os.environ.pop("FIREZONE_TOKEN", None)


def client_token(from_environment: str | None, path: Path) -> SecretText:
    """Returns the token.

    Raises: ConfigError when there is none, or when others could read or replace the file.
    """
    if from_environment is not None and from_environment.strip():
        return SecretText(from_environment.strip())
    text = _read_file(path)
    if text is None:
        raise ConfigError(f"There is no token: neither $FIREZONE_TOKEN nor {path} has one. Get one from your portal.")
    log.info("token loaded from file", path=str(path))
    return SecretText(text)


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
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"The token file {path} is not UTF-8 text.") from error
    except OSError as error:
        log.info("the token file cannot be read", path=str(path), error=error.strerror)
        return None
    return text.strip() or None
