"""May this WebSocket be opened, and as which device? Read from the upgrade request, before 101 is answered.

The path decides the protocol, and with it how a refusal is worded: plain text for version 1, problem details for version 2.

Source: portal protocol sections 2.2, 9.2 to 9.4, 10.3, 11.2, 11.7; RFC 9457.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

import msgspec

from firezone.base.errors import FirezoneError
from firezone.base.net import Endpoint
from firezone.base.timing import SECOND, UnixTime
from firezone.proto.portal.dialect import Dialect, dialect_of, version_of
from firezone.proto.portal.model import PolicyBook, Role, Token, token_hash
from firezone.wire.portal.shared import PublicKey

MAX_NAME = 255
MAX_RATE_KEYS = 4096
"""Devices whose last attempt is remembered; the oldest is forgotten for a new one."""

_PATHS = {f"/{role.value}/websocket": (role, 1) for role in Role} | {
    f"/{role.value}/v2/websocket": (role, 2) for role in (Role.CLIENT, Role.GATEWAY)
}


class LoginRejected(FirezoneError):
    """The upgrade is answered with this status and text instead of 101."""

    def __init__(self, status: int, message: str, *, code: str = "", retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        """Problem code of the newest protocol."""
        self.retry_after_s = retry_after_s
        self.protocol = 1
        """Of the path that was asked for."""

    @property
    def content_type(self) -> str:
        return "text/plain; charset=utf-8" if self.protocol == 1 else "application/problem+json"

    @property
    def body(self) -> bytes:
        """What the answer says, in the form of its path."""
        if self.protocol == 1:
            return self.message.encode()
        return msgspec.json.encode(
            {"type": "about:blank", "title": HTTPStatus(self.status).phrase, "status": self.status, "detail": self.message,
             "code": self.code}
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What an upgrade request says."""

    path: str
    parameters: Mapping[str, str] = field(repr=False)
    """The query, decoded. Holds the token."""
    user_agent: str
    remote_ip: str
    authorization: str = field(default="", repr=False)
    """Header `X-Authorization`."""


@dataclass(frozen=True, slots=True)
class Login:
    """A request that was found good."""

    role: Role
    token: Token
    external_id: str
    name: str
    public_key: PublicKey
    version: str
    remote_ip: str
    dialect: Dialect


@dataclass(frozen=True, slots=True)
class RelayLogin:
    """The request of a relay that was found good."""

    token: Token
    name: str
    endpoints: tuple[Endpoint, ...]
    """Where devices reach it, IPv4 before IPv6."""
    version: str
    remote_ip: str


class LoginRate:
    """Lets one token log in once a second from one address, where the protocol has a way to say "later"."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], UnixTime] = {}

    def take(self, upgrade: Upgrade, utc: UnixTime) -> None:
        """Notes an attempt. Raises LoginRejected when the last one has only just been."""
        _, protocol = _PATHS.get(upgrade.path, (None, 1))
        text = token_text(upgrade)
        if protocol == 1 or not text:
            return
        key = upgrade.remote_ip, token_hash(text)[:16]
        last = self._last.pop(key, None)
        if last is not None and 0 <= utc - last < SECOND:
            self._last[key] = last
            raise _in_protocol(LoginRejected(503, "Too many logins", code="rate_limit", retry_after_s=1), protocol)
        if len(self._last) >= MAX_RATE_KEYS:
            del self._last[next(iter(self._last))]
        self._last[key] = utc


def read_login(upgrade: Upgrade, book: PolicyBook, utc_s: int) -> Login | RelayLogin:
    """Checks an upgrade request. Raises LoginRejected."""
    role, protocol = _PATHS.get(upgrade.path, (None, 1))
    if role is None:
        raise LoginRejected(404, "Not Found")
    try:
        return _read(upgrade, book, role, protocol, utc_s)
    except LoginRejected as error:
        raise _in_protocol(error, protocol) from error.__cause__


def duplicate_gateway(protocol: int, retry_after_s: int) -> LoginRejected:
    """Returns the answer to a second gateway with the identity of a connected one.

    Version 1 takes a 409 for the end, and its gateways come back while their dead socket still counts: they are told "later".
    """
    status = 503 if protocol == 1 else 409
    found = LoginRejected(
        status, "A gateway with this id is connected", code="gateway_already_connected", retry_after_s=retry_after_s
    )
    return _in_protocol(found, protocol)


def disabled_device(protocol: int) -> LoginRejected:
    """Returns the answer to a device that the administrator keeps out."""
    return _in_protocol(LoginRejected(403, "This device is disabled", code="device_untrusted"), protocol)


def token_text(upgrade: Upgrade) -> str:
    """Returns the text of the token, empty if there is none: header first, then query."""
    word, _, text = upgrade.authorization.partition(" ")
    if word.lower() != "bearer" or not text.strip():
        text = upgrade.parameters.get("token", "")
    return text.strip()


def _read(upgrade: Upgrade, book: PolicyBook, role: Role, protocol: int, utc_s: int) -> Login | RelayLogin:
    token = _token(upgrade, book, role, utc_s)
    version = version_of(upgrade.user_agent)
    if version is None:
        if protocol == 1 or role is not Role.GATEWAY:
            raise _invalid("the user agent names no component")
        version = ""  # The newest portal lets such a gateway in, and never chooses it.
    if role is Role.RELAY:
        return _read_relay(upgrade, token, version)
    external_id = upgrade.parameters.get("external_id", "").strip()
    if not external_id:
        raise _invalid("external_id is missing")
    name = upgrade.parameters.get("name", "").strip() or role.value
    if len(name) > MAX_NAME or len(external_id) > MAX_NAME:
        raise _invalid(f"a name or id is longer than {MAX_NAME} characters")
    try:
        public_key = PublicKey.from_text(upgrade.parameters.get("public_key", ""))
    except ValueError as error:
        raise _invalid("public_key is not 44 characters of base64") from error
    dialect = dialect_of(role, protocol, upgrade.user_agent, version)
    return Login(role, token, external_id, name, public_key, version, upgrade.remote_ip, dialect)


def _read_relay(upgrade: Upgrade, token: Token, version: str) -> RelayLogin:
    name = upgrade.parameters.get("name", token.name).strip()
    if not 1 <= len(name) <= MAX_NAME:
        raise _invalid(f"a name has 1 to {MAX_NAME} characters")
    port = upgrade.parameters.get("port", "3478")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise _invalid("port is no UDP port")
    endpoints = []
    for family in (4, 6):
        text = upgrade.parameters.get(f"ipv{family}")
        if text is None:
            continue
        try:
            endpoint = Endpoint.from_text(text, int(port))
        except ValueError as error:
            raise _invalid(f"ipv{family} is no address") from error
        if endpoint.is_ipv4 != (family == 4):
            raise _invalid(f"ipv{family} is of the other family")
        endpoints.append(endpoint)
    if not endpoints:
        raise _invalid("neither ipv4 nor ipv6 is given")
    return RelayLogin(token, name, tuple(endpoints), version, upgrade.remote_ip)


def _token(upgrade: Upgrade, book: PolicyBook, role: Role, utc_s: int) -> Token:
    """Finds the token in the policy."""
    text = token_text(upgrade)
    if not text:
        raise LoginRejected(401, "Missing token", code="missing_token")
    token = book.tokens.get(token_hash(text))
    if token is None or token.role is not role or not token.is_valid(utc_s) or not _is_owner_active(token, book):
        raise LoginRejected(401, "Invalid token", code="invalid_token")
    return token


def _is_owner_active(token: Token, book: PolicyBook) -> bool:
    return token.role is not Role.CLIENT or book.users[token.owner_id].is_enabled


def _in_protocol(error: LoginRejected, protocol: int) -> LoginRejected:
    error.protocol = protocol
    if protocol == 2 and error.code == "invalid_connect_params":
        error.status = 400
    return error


def _invalid(why: str) -> LoginRejected:
    return LoginRejected(422, f"Invalid or missing connection parameters: {why}", code="invalid_connect_params")
