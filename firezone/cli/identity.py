"""Who this device is to the portal: an id that survives restarts, kept in a small JSON file."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import uuid
from pathlib import Path

from firezone.base.errors import ConfigError

CLIENT_ID_FILE = Path("/var/lib/dev.firezone.client/config/firezone-id.json")
GATEWAY_ID_FILE = Path("/var/lib/firezone/gateway_id")
_DIRECTORY_MODE, _FILE_MODE = 0o770, 0o640


def load_device_id(path: Path) -> str:
    """Returns the stored id, or makes and stores a new one.

    Raises: ConfigError when the file is there but unreadable as an id, or cannot be written: silently becoming a new device
            would cost the administrator a second entry in the portal.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return _create(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The device id in {path} cannot be read: {error}.") from error
    if not content.strip():
        return _create(path)
    _set_modes(path)
    return _parse(path, content)


def device_name(given: str | None) -> str:
    """Returns the name shown in the portal: as given, else the host name, else something random."""
    return given or socket.gethostname() or str(uuid.uuid4())


def smbios_value(name: str) -> str | None:
    """Returns a value of the machine's SMBIOS tables (`product_serial`, `product_uuid`); None where it cannot be read."""
    try:
        value = Path("/sys/class/dmi/id", name).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
    return value if value and value != "123456789" else None


def _parse(path: Path, content: str) -> str:
    text = content.strip()
    if not text.startswith("{"):
        if len(text.split()) == 1:
            return text
        raise ConfigError(f"The file {path} holds no device id. Remove it to register as a new device.")
    try:
        found = json.loads(text)["id"]
    except (json.JSONDecodeError, KeyError) as error:
        raise ConfigError(f"The file {path} holds no device id. Remove it to register as a new device.") from error
    if not isinstance(found, str) or not found:
        raise ConfigError(f"The device id in {path} is not text. Remove the file to register as a new device.")
    return found


def _create(path: Path) -> str:
    device_id = hashlib.sha256(str(uuid.uuid4()).encode()).hexdigest()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"id": device_id}), encoding="utf-8")
        temporary.chmod(_FILE_MODE)
        if path.exists():
            path.unlink()  # Only an empty file gets here.
        _place(temporary, path)
    except FileExistsError:
        return load_device_id(path)  # Another program was first.
    except OSError as error:
        raise ConfigError(
            f"The device id cannot be stored in {path}: {error.strerror}. Run as root, or give one with --firezone-id."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    _set_modes(path)
    return device_id


def _place(temporary: Path, path: Path) -> None:
    """Gives a complete file its name, never replacing another. Some file systems (ZFS, FAT) have no hard links."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        with path.open("x", encoding="utf-8") as file:
            file.write(temporary.read_text(encoding="utf-8"))


def _set_modes(path: Path) -> None:
    """Repairs the modes of older installations; a read-only place is left as it is."""
    for target, mode in ((path.parent, _DIRECTORY_MODE), (path, _FILE_MODE)):
        try:
            if target.stat().st_mode & 0o7777 != mode and target.parent != target:
                target.chmod(mode)
        except OSError:
            continue
