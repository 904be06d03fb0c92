"""What a client and a gateway share for one connection: preshared key and ICE credentials, the same for the same pair of keys.

Being the same is what lets a second resource use the connection that is already up.

Source: portal protocol section 9.11; Firezone `elixir/apps/api/lib/api/client/channel.ex`.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from itertools import chain

from firezone.base.rng import Rng, below
from firezone.base.secret import SecretBytes, SecretText
from firezone.proto.portal.model import Device
from firezone.wire.portal.shared import IceCredentials

ADDRESSES = 1 << 21
"""Tunnel addresses in each family's pool; the first two and the last are never given out."""


@dataclass(frozen=True, slots=True)
class PairCredentials:
    """Everything secret of one client and one gateway."""

    preshared_key: SecretBytes
    client_ice: IceCredentials
    gateway_ice: IceCredentials


def pair_credentials(client: Device, gateway: Device) -> PairCredentials:
    """Derives the credentials of a pair from their ids, public keys and secret bases."""
    client_key, gateway_key = client.public_key.to_text(), gateway.public_key.to_text()
    salt = f"WG_PSK|C_ID:{client.id}|G_ID:{gateway.id}|C_PK:{client_key}|G_PK:{gateway_key}"
    secret = client.psk_base.reveal() + gateway.psk_base.reveal()
    seed = f"{client.id}:{client_key}:{gateway.id}:{gateway_key}"
    text = base64.b32encode(hashlib.sha256(seed.encode()).digest()).decode().rstrip("=").lower()
    return PairCredentials(
        SecretBytes(hashlib.pbkdf2_hmac("sha256", secret, salt.encode(), 1, 32)),
        IceCredentials(username=text[0:4], password=SecretText(text[4:26])),
        IceCredentials(username=text[26:30], password=SecretText(text[30:52])),
    )


def free_offset(rng: Rng, taken: set[int]) -> int:
    """Returns a free offset in the address pools: a random one, else the next free above it, else below."""
    start = 2 + below(rng, ADDRESSES - 3)
    offset: int
    for offset in chain(range(start, ADDRESSES - 1), range(start - 1, 1, -1)):
        if offset not in taken:
            return offset
    raise ValueError("every tunnel address is taken")
