"""What the messages of version 2 share: where flow logs go, the token that goes with each authorisation, capabilities.

Source: portal protocol sections 11.4, 11.5.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from firezone.base.secret import SecretText
from firezone.wire.portal.shared import Message

INITIATOR = "initiator"
RESPONDER = "responder"

NEWER_NAMES = {"gateway_groups": "sites", "gateway_group_id": "site_id"}
"""Members of version 1 to what newer clients know them by. One message never has both names."""


class FlowLogs(Message, frozen=True):
    """Where and how often flow logs are to be delivered."""

    api_url: str
    upload_interval_secs: int
    """0: never."""
    upload_batch_size: int
    """0: the device's own default."""


class SnownetCapabilities(Message, frozen=True, kw_only=True):
    """What kinds of connection a device can make. A portal takes note without an answer."""

    iceless: bool = False


class IngestClaims(msgspec.Struct, frozen=True, kw_only=True):
    """What an ingest token must say. Others may read it; nobody but the flow log service checks the signature."""

    account_id: str
    iat: int
    exp: int
    """Seconds; the end of the authorisation and 30 days more."""
    uploads_enabled: bool
    role: str
    initiator_device_id: str
    responder_device_id: str
    policy_authorization_id: str
    policy_id: str
    resource_id: str
    resource_name: str
    initiator_actor_id: str
    initiator_actor_name: str
    authorized_at: str
    """ISO 8601."""
    authorization_expires_at: str
    """ISO 8601."""
    resource_address: str | None = None
    initiator_actor_email: str | None = None
    initiator_auth_provider_id: str | None = None
    initiator_client_version: str | None = None

    def __post_init__(self) -> None:
        if self.role not in (INITIATOR, RESPONDER):
            raise ValueError("the role of an ingest token is neither initiator nor responder")


class _Header(msgspec.Struct, frozen=True):
    alg: str


def read_ingest_token(token: SecretText) -> IngestClaims:
    """Returns the claims of an ingest token (a JWT, RFC 7519), its form checked, its signature not: we have no key.

    Raises: ValueError.
    """
    parts = token.reveal().split(".")
    if len(parts) != 3:
        raise ValueError("an ingest token has three parts")
    header, claims, signature = map(_decode_part, parts)
    try:
        algorithm = msgspec.json.decode(header, type=_Header).alg
        found = msgspec.json.decode(claims, type=IngestClaims)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ValueError(f"an ingest token does not decode: {error}") from error
    if algorithm != "HS256":
        raise ValueError("an ingest token is not signed with HS256")
    if not signature:
        raise ValueError("an ingest token is not signed")
    return found


def _decode_part(text: str) -> bytes:
    if "=" in text:
        raise ValueError("a part of an ingest token is padded")
    try:
        return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("a part of an ingest token is not base64url") from error
