"""May this WebSocket be opened, and as which device? Read from the upgrade request, before 101 is answered.

Source: portal protocol sections 2.2, 9.2 to 9.4, 10.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from firezone.base.errors import FirezoneError
from firezone.base.net import Endpoint
from firezone.proto.portal.model import PolicyBook, Role, Token, token_hash
from firezone.wire.portal.shared import PublicKey

MAX_NAME = 255
COMPONENTS = ("connlib/", "headless-client/", "gui-client/", "apple-client/", "android-client/", "gateway/", "relay/")

_ROLES = {f"/{role.value}/websocket": role for role in Role}


class LoginRejected(FirezoneError):
    """The upgrade is answered with this status and text instead of 101."""

    def __init__(self, status: int, message: str, *, code: str = "", retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        """Problem code of the newest protocol."""
        self.retry_after_s = retry_after_s


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


@dataclass(frozen=True, slots=True)
class RelayLogin:
    """The request of a relay that was found good."""

    token: Token
    name: str
    endpoints: tuple[Endpoint, ...]
    """Where devices reach it, IPv4 before IPv6."""
    version: str
    remote_ip: str


def read_login(upgrade: Upgrade, book: PolicyBook, utc_s: int) -> Login | RelayLogin:
    """Checks an upgrade request. Raises LoginRejected."""
    role = _ROLES.get(upgrade.path)
    if role is None:
        raise LoginRejected(404, "Not Found")
    token = _token(upgrade, book, role, utc_s)
    version = version_of(upgrade.user_agent)
    if version is None:
        raise _invalid("the user agent names no component")
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
    return Login(role, token, external_id, name, public_key, version, upgrade.remote_ip)


def version_of(user_agent: str) -> str | None:
    """Returns the version in a user agent, None when no word of it names a component of ours."""
    for word in user_agent.split(" "):
        for component in COMPONENTS:
            if word.startswith(component):
                return word.removeprefix(component)
    return None


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
    """Finds the token: header first, then query."""
    word, _, text = upgrade.authorization.partition(" ")
    if word.lower() != "bearer" or not text.strip():
        text = upgrade.parameters.get("token", "")
    if not text.strip():
        raise LoginRejected(401, "Missing token", code="missing_token")
    token = book.tokens.get(token_hash(text.strip()))
    if token is None or token.role is not role or not token.is_valid(utc_s) or not _is_owner_active(token, book):
        raise LoginRejected(401, "Invalid token", code="invalid_token")
    return token


def _is_owner_active(token: Token, book: PolicyBook) -> bool:
    return token.role is not Role.CLIENT or book.users[token.owner_id].is_enabled


def _invalid(why: str) -> LoginRejected:
    return LoginRejected(422, f"Invalid or missing connection parameters: {why}", code="invalid_connect_params")
