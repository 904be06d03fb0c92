"""The devices that have logged in once: who they are, which addresses they have, whether they may come again.

Source: portal protocol sections 9.3, 9.6.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable

from firezone.base.net import TUNNEL_V4, TUNNEL_V6
from firezone.base.rng import Rng
from firezone.base.secret import SecretBytes
from firezone.proto.portal.credentials import free_offset
from firezone.proto.portal.login import Login
from firezone.proto.portal.model import Device, Role, Store
from firezone.wire.portal.shared import UnixSeconds


class Devices:
    """All devices, by id and by what they log in as. Every change goes to the store."""

    def __init__(self, store: Store, rng: Rng, loaded: Iterable[Device]) -> None:
        self._store = store
        self._rng = rng
        self._by_id: dict[str, Device] = {}
        self._by_identity: dict[tuple[Role, str, str], Device] = {}
        self._taken: set[int] = set()
        """Offsets of tunnel addresses in their pools."""
        for device in loaded:
            self._keep(device)

    def get(self, device_id: str) -> Device | None:
        return self._by_id.get(device_id)

    def all(self) -> list[Device]:
        return list(self._by_id.values())

    def find(self, login: Login) -> Device | None:
        """Returns the device that logs in, if it is known."""
        return self._by_identity.get((login.role, login.token.owner_id, login.external_id))

    def upsert(self, login: Login, utc_s: int) -> Device:
        """Returns the device that has logged in, new or renewed."""
        device = self.find(login)
        if device is None:
            offset = free_offset(self._rng, self._taken)
            device = Device(
                str(uuid.UUID(bytes=self._rng.bytes(16), version=4)), login.role, login.token.owner_id, login.external_id,
                login.name, login.public_key, SecretBytes(self._rng.bytes(32)), TUNNEL_V4[offset], TUNNEL_V6[offset],
                login.version, login.remote_ip, UnixSeconds(utc_s),
            )  # fmt: skip
        device = dataclasses.replace(
            device, public_key=login.public_key, version=login.version, remote_ip=login.remote_ip,
            last_seen=UnixSeconds(utc_s), name=login.name if login.role is Role.GATEWAY else device.name,
        )  # fmt: skip
        self._put(device)
        return device

    def set_disabled(self, device: Device, is_disabled: bool) -> None:
        self._put(dataclasses.replace(device, is_disabled=is_disabled))

    def remove(self, device: Device) -> None:
        """Forgets a device: if it comes again it is another one."""
        del self._by_id[device.id]
        del self._by_identity[device.role, device.owner_id, device.external_id]
        self._taken.discard(_offset(device))
        self._store.remove_device(device.id)

    def _put(self, device: Device) -> None:
        self._keep(device)
        self._store.put_device(device)

    def _keep(self, device: Device) -> None:
        self._by_id[device.id] = device
        self._by_identity[device.role, device.owner_id, device.external_id] = device
        self._taken.add(_offset(device))


def _offset(device: Device) -> int:
    return int(device.ipv4) - int(TUNNEL_V4.network_address)
