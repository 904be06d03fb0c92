"""Ingest tokens: what the newest devices want with every authorisation, and would deliver flow logs under.

This portal takes no flow logs, so the tokens forbid uploads, and the key lives as long as the process.

Source: portal protocol section 11.5; RFC 7519.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from firezone.base.rng import Rng
from firezone.base.secret import SecretText
from firezone.proto.portal.model import Account, Device, Resource, User, stable_id
from firezone.wire.portal.shared import UnixSeconds
from firezone.wire.portal.v2.shared import IngestClaims

FAR_FUTURE = UnixSeconds(4_102_444_800)
"""2100-01-01: stands for "never" where the wire wants a number."""
GRACE_S = 30 * 86400
"""Logs may be delivered this long after the authorisation has ended."""

_HEADER = b'{"alg":"HS256","typ":"JWT"}'


@dataclass(frozen=True, slots=True)
class Subject:
    """What is authorised, for whom, until when."""

    account: Account
    user: User
    initiator: Device
    responder: Device
    resource: Resource
    policy_id: str
    expires_at: UnixSeconds | None


class IngestTokens:
    """Mints tokens under one key."""

    def __init__(self, rng: Rng) -> None:
        self._key = rng.bytes(32)

    def mint(self, subject: Subject, role: str, utc_s: int) -> SecretText:
        """Returns the token of one side of an authorisation."""
        expires_at = FAR_FUTURE if subject.expires_at is None else subject.expires_at
        resource = subject.resource
        claims = IngestClaims(
            account_id=subject.account.id, iat=utc_s, exp=expires_at + GRACE_S, uploads_enabled=False, role=role,
            initiator_device_id=subject.initiator.id, responder_device_id=subject.responder.id,
            policy_authorization_id=stable_id("grant", subject.initiator.id, resource.id, subject.responder.id, str(utc_s)),
            policy_id=subject.policy_id, resource_id=resource.id, resource_name=resource.name,
            resource_address=None if resource.address is None else str(resource.address),
            initiator_actor_id=subject.user.id, initiator_actor_name=subject.user.name,
            initiator_client_version=subject.initiator.version, authorized_at=_iso(utc_s),
            authorization_expires_at=_iso(expires_at),
        )  # fmt: skip
        signed = _base64(_HEADER) + b"." + _base64(msgspec.json.encode(claims))
        return SecretText((signed + b"." + _base64(hmac.digest(self._key, signed, hashlib.sha256))).decode())


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
