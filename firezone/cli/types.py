"""Option types with the spellings of Firezone's programs."""

from __future__ import annotations

import ipaddress
import math
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from firezone.base.timing import Instant, seconds

_UNITS = {
    "ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "sec": 1, "secs": 1, "m": 60, "min": 60, "mins": 60, "h": 3600, "hr": 3600,
    "hour": 3600, "hours": 3600, "d": 86400, "day": 86400, "days": 86400, "w": 604800, "week": 604800, "weeks": 604800,
}  # fmt: skip
DNS_METHODS = ("systemd-resolved", "etc-resolv-conf", "disabled")
"""As the original spells them; the default first."""


class Duration(click.ParamType[Instant]):
    """`5m`, `1h 30m`, `30d`; a bare number is refused. Converts to nanoseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Instant:
        parts = re.findall(r"(\d+)\s*([a-z]+)", value)
        if not parts or re.sub(r"\d+\s*[a-z]+", "", value).strip() or any(unit not in _UNITS for _, unit in parts):
            self.fail(f"{value!r} is no duration. Write for example 30s, 5m, 1h 30m or 30d.", param, ctx)
        return seconds(sum(int(number) * _UNITS[unit] for number, unit in parts))


class ApiUrl(click.ParamType[str]):
    """An absolute ws, wss, http or https URL."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        url = str(value).strip()
        if (wrong := _wrong_with_url(url)) is not None:
            shown = "This" if "@" in url else repr(url)  # It may contain a password.
            self.fail(f"{shown} is no portal URL: {wrong}. Write for example wss://api.firezone.dev.", param, ctx)
        return url


def _wrong_with_url(url: str) -> str | None:
    """Says why nobody could log in at a URL; None when it is fine."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        return str(error)
    if parts.scheme not in ("ws", "wss", "http", "https"):
        return "it must begin with ws://, wss://, http:// or https://"
    if not host or re.search(r"\s", url):
        return "it names no host" if not host else "it contains white space"
    if "@" in parts.netloc:
        return "it must not contain a user name or password"
    return "port 0 does not exist" if port == 0 else None


class DnsControl(click.ParamType[str]):
    """How the machine's DNS is set."""

    name = "method"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in DNS_METHODS:
            self.fail(f"{value!r} is no DNS method. There are: {', '.join(DNS_METHODS)}.", param, ctx)
        return str(value)


class HostPort(click.ParamType[tuple[str, int]]):
    """`0.0.0.0:8080` or `[::]:8080`."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):(\d{1,5})", value)
        if match is None or int(match[3]) > 65535:
            self.fail(f"{value!r} is no address with a port. Write for example 0.0.0.0:8080.", param, ctx)
        return match[1] or match[2], int(match[3])


class Collector(click.ParamType[str]):
    """Host name or IP address with a port: `collector:4317`, `[::1]:4317`."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        match = re.fullmatch(r"(?:\[[0-9a-fA-F:.]+\]|[\w.-]+):(\d{1,5})", value)
        if match is None or not 0 < int(match[1]) <= 65535:
            self.fail(f"{value!r} is no host with a port. Write for example 127.0.0.1:4317.", param, ctx)
        return str(value)


class IpAddress(click.ParamType[str]):
    """An address of one IP version, in its usual spelling."""

    name = "address"

    def __init__(self, version: int) -> None:
        self._version = version

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            address = None
        if address is None or address.version != self._version:
            example = "203.0.113.10" if self._version == 4 else "2001:db8::10"
            self.fail(f"{value!r} is no IPv{self._version} address. Write for example {example}.", param, ctx)
        return str(address)


class Seconds(click.FloatRange):
    """A length of time within bounds. Unlike the range it is made of it refuses `nan`, which is in every range."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is no number of seconds.", param, ctx)
        return number


class OutputFile(click.ParamType[Path]):
    """A file that can be written when a long run is over: whoever mistypes its directory hears of it at once."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value).absolute()
        is_new = not path.exists()
        try:
            with path.open("ab"):
                pass
        except OSError as error:
            self.fail(f"{path} cannot be written: {error.strerror}.", param, ctx)
        if is_new:
            path.unlink()
        return path


class CountersFile(click.ParamType[Path]):
    """A file that a running program replaces whole: in a directory that is there, and nothing but a file itself."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value).absolute()
        if path.exists() and not path.is_file():
            self.fail(f"{path} is no file: the counters would replace it.", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"{path} cannot be written: there is no directory {path.parent}.", param, ctx)
        if not os.access(path.parent, os.W_OK | os.X_OK):
            self.fail(f"{path} cannot be written: {path.parent} is not ours to write in.", param, ctx)
        return path


class CertificateFile(click.Path):
    """A PEM file with the certificates of an authority. Converts to its path."""

    name = "file"

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        import ssl

        path = super().convert(value, param, ctx)
        try:
            ssl.create_default_context(cafile=str(path))
        except OSError:
            self.fail(f"{str(path)!r} has no certificate in it. It must be a PEM file.", param, ctx)
        return path
