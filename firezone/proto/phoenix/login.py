"""Where and as whom a device logs in: the WebSocket URL with its parameters, the device id, the user agent.

Source: portal protocol section 2; Firezone `phoenix-channel/src/{login_url,get_user_agent}.rs`.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from urllib.parse import quote_plus, urlsplit

from firezone.base.errors import ConfigError
from firezone.base.secret import SecretText
from firezone.wire.portal.shared import PublicKey

DEFAULT_PORT = 443
"""Also for ws://. An explicit port 80 with ws:// counts as none, as in the original."""
USER_AGENT_WORD = "connlib"
"""Component name of clients and gateways in the user agent; every portal knows it."""
COMPATIBLE_CLIENT_VERSION = "1.5.4"
"""Version our client logs in as: portals gate features and pair clients with gateways by it."""
COMPATIBLE_GATEWAY_VERSION = "1.4.17"

_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


@dataclass(frozen=True, slots=True)
class LoginUrl:
    """The URL of one role at one portal, all but the public key, which may change with every connection."""

    scheme: str
    """ws or wss."""
    host: str
    """Name or IP literal, without brackets."""
    port: int
    path: str
    parameters: tuple[tuple[str, SecretText], ...]
    """In the order they are sent. The token is one of them; none is ever printed."""

    @classmethod
    def client(
        cls,
        api_url: str,
        token: str,
        *,
        device_id: str,
        name: str,
        device_serial: str | None = None,
        device_uuid: str | None = None,
        generation: int = 1,
    ) -> LoginUrl:
        """Builds a client's URL. `generation` of the protocol is 1 or 2. Raises ConfigError for a URL that is none."""
        return cls._build(
            api_url, _paths("client")[generation], token, external_id=external_id(device_id), name=name,
            device_serial=device_serial, device_uuid=device_uuid,
        )  # fmt: skip

    @classmethod
    def gateway(cls, api_url: str, token: str, *, device_id: str, name: str, generation: int = 1) -> LoginUrl:
        """Builds a gateway's URL. `generation` of the protocol is 1 or 2. Raises ConfigError for a URL that is none."""
        return cls._build(api_url, _paths("gateway")[generation], token, external_id=external_id(device_id), name=name)

    @classmethod
    def relay(cls, api_url: str, token: str, *, name: str | None, ipv4: str | None, ipv6: str | None, port: int = 3478) -> LoginUrl:
        """Builds a relay's URL. Raises ConfigError for a URL that is none."""
        return cls._build(api_url, "relay/websocket", token, name=name, ipv4=ipv4, ipv6=ipv6, port=str(port))

    @classmethod
    def _build(cls, api_url: str, endpoint: str, token: str, **parameters: str | None) -> LoginUrl:
        scheme, host, port, path = _split(api_url)
        given = {"token": "".join(token.split()), **parameters}
        return cls(
            scheme, host, port, f"{path.removesuffix('/')}/{endpoint}",
            tuple((key, SecretText(value)) for key, value in given.items() if value is not None),
        )  # fmt: skip

    @property
    def origin(self) -> str:
        """The URL without parameters: safe to print."""
        return f"{self.scheme}://{self._host_text}:{self.port}{self.path}"

    @property
    def is_tls(self) -> bool:
        return self.scheme == "wss"

    @property
    def _host_text(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    def to_url(self, public_key: PublicKey | None = None, *, with_port: bool = True) -> str:
        """Returns the whole URL, secrets included; the public key comes last. Without the port it gives the Host header."""
        pairs = [(key, value.reveal()) for key, value in self.parameters]
        if public_key is not None:
            pairs.append(("public_key", public_key.to_text()))
        origin = self.origin if with_port else f"{self.scheme}://{self._host_text}{self.path}"
        return origin + "?" + "&".join(f"{key}={_form_encode(value)}" for key, value in pairs)

    def __repr__(self) -> str:
        return f"LoginUrl({self.origin!r})"


def external_id(device_id: str) -> str:
    """Returns what the portal gets to know: SHA-256 of the text as given when it is a UUID, else the text itself."""
    try:
        uuid.UUID(device_id)
    except ValueError:
        return device_id
    return hashlib.sha256(device_id.encode()).hexdigest()


def user_agent(
    os_type: str, os_version: str, version: str, *, arch: str = "", kernel: str = "", word: str = USER_AGENT_WORD
) -> str:
    """Returns the User-Agent header; what is not printable ASCII is left out, since kernels have had names that broke it."""
    known = "; ".join(part for part in (arch, kernel) if part)
    text = f"{os_type}/{os_version} {word}/{version}" + (f" ({known})" if known else "")
    return "".join(char for char in text if " " <= char <= "~")


def _paths(role: str) -> dict[int, str]:
    """The path says which generation of the protocol is spoken."""
    return {1: f"{role}/websocket", 2: f"{role}/v2/websocket"}


def _split(api_url: str) -> tuple[str, str, int, str]:
    try:
        parts = urlsplit(api_url.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"The API URL {api_url!r} is not a URL: {error}.") from error
    if parts.scheme.lower() not in _SCHEMES:
        raise ConfigError(f"The API URL {api_url!r} must begin with ws://, wss://, http:// or https://.")
    if not host:
        raise ConfigError(f"The API URL {api_url!r} names no host.")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("The API URL must not contain a user name or password.")
    scheme = _SCHEMES[parts.scheme.lower()]
    if port is None or (scheme, port) == ("ws", 80):
        port = DEFAULT_PORT
    return scheme, host, port, parts.path


def _form_encode(value: str) -> str:
    """Encodes as application/x-www-form-urlencoded, which unlike RFC 3986 keeps `*` and encodes `~`."""
    return quote_plus(value, safe="*").replace("~", "%7E")
