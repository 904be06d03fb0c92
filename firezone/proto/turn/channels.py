"""The channels of one allocation: numbers that stand for peers, each for as long as both sides agree that it does.

    age since the last bind    send        bind the peer again
    under 10 min               yes         not needed; from 5 min on once, if the peer sent anything meanwhile
    10 to 15 min               no          under the same number (a peer must not change its number while it cools down)
    over 15 min                no          under any number, and the number may go to another peer

A binding whose answer is still to come may be sent on: the request travels ahead. Data that arrives is believed only once it
is answered.

Source: RFC 8656 section 12; Firezone's `channel_bindings.rs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from firezone.base.net import Endpoint
from firezone.base.timing import SECOND, Instant

FIRST_NUMBER = 0x4000
LAST_NUMBER = 0x4FFF
"""RFC 8656 section 12 reserves the numbers above."""
MAX_CHANNELS = LAST_NUMBER - FIRST_NUMBER + 1
BINDING_LIFETIME = 600 * SECOND
"""How long a relay keeps a binding."""
COOL_DOWN = 300 * SECOND
"""How long after that neither the number nor its peer may enter another binding."""
REFRESH_AFTER = 300 * SECOND
"""Age at which a channel that is in use is bound again: half its life leaves room for a few losses."""
REVIEW_INTERVAL = 25 * SECOND
"""How often a channel of that age is asked whether the peer sent something."""
NEVER = 1 << 63
HEADER_SIZE = 4


class ChannelGate(Protocol):
    """The compiled receive path's list of channels whose data it may take; `kernels.channel.ChannelTable`."""

    def add_relay(self, relay: Endpoint) -> None:
        """Makes a relay's socket known: channel data from anywhere else is dropped."""
        ...

    def remove_relay(self, relay: Endpoint) -> None:
        """Forgets a relay's socket and all its channels."""
        ...

    def open(self, relay: Endpoint, number: int) -> None:
        """Lets data of a channel pass, and forgets whether any came."""
        ...

    def close(self, relay: Endpoint, number: int) -> None:
        """Lets no more data of a channel pass."""
        ...

    def has_received(self, relay: Endpoint, number: int) -> bool:
        """Tells whether data passed since the channel was opened."""
        ...


@dataclass(slots=True)
class Channel:
    """One number and the peer it stands for."""

    number: int
    peer: Endpoint
    bound_at: Instant
    """When it was first asked for, then when that was last granted."""
    review_at: Instant
    """When to see whether it needs a refresh or has expired."""
    is_confirmed: bool = False
    """Whether the relay granted it; a refresh under way does not take that back."""
    is_binding: bool = True
    """Whether a request is under way."""
    has_received: bool = False
    """Whether the machine itself took data of the peer since the last grant."""

    def is_sendable(self, now: Instant) -> bool:
        return now < self.bound_at + BINDING_LIFETIME

    def is_reusable(self, now: Instant) -> bool:
        return now >= self.bound_at + BINDING_LIFETIME + COOL_DOWN


class Channels:
    """All channels of one allocation, at most one per peer and one per number."""

    def __init__(self) -> None:
        self._by_number: dict[int, Channel] = {}
        self._by_peer: dict[Endpoint, Channel] = {}
        self._next = FIRST_NUMBER
        self._review_at: Instant = NEVER
        self._full_until: Instant = 0
        """No number gets free before."""

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._by_number.values())

    def by_number(self, number: int) -> Channel | None:
        return self._by_number.get(number)

    def by_peer(self, peer: Endpoint) -> Channel | None:
        return self._by_peer.get(peer)

    def bind(self, peer: Endpoint, now: Instant) -> Channel | None:
        """Returns a channel to ask the relay for: the peer's former one while it cools down, else a fresh one.

        None when every number is taken.
        """
        known = self._by_peer.get(peer)
        if known is not None and not known.is_reusable(now):
            known.bound_at, known.is_binding = now, True
            self._review(known, now + REFRESH_AFTER)
            return known
        if known is not None:
            self.forget(known)
        number = self._free_number(now)
        if number is None:
            return None
        channel = Channel(number, peer, now, now + REFRESH_AFTER)
        self._by_number[number] = self._by_peer[peer] = channel
        self._review(channel, channel.review_at)
        return channel

    def confirm(self, channel: Channel, now: Instant) -> None:
        """Notes that the relay granted a binding."""
        channel.bound_at, channel.is_confirmed, channel.is_binding, channel.has_received = now, True, False, False
        self._review(channel, now + REFRESH_AFTER)

    def forget(self, channel: Channel) -> None:
        """Drops a channel; number and peer are free at once."""
        del self._by_number[channel.number], self._by_peer[channel.peer]

    def next_review(self) -> Instant | None:
        """Returns when `review` has something to do, or a little before."""
        return None if self._review_at == NEVER else self._review_at

    def review(self, now: Instant, has_received: Callable[[Channel], bool]) -> tuple[list[Channel], list[Channel]]:
        """Goes through the channels that are due.

        `has_received` tells what the compiled path saw; it is asked for channels of 5 to 10 minutes only.

        Returns: those to bind again because they are in use, and those that expired just now.
        """
        refresh: list[Channel] = []
        expired: list[Channel] = []
        if now < self._review_at:
            return refresh, expired
        for channel in self._by_number.values():
            if now < channel.review_at:
                continue
            if not channel.is_sendable(now):
                channel.review_at, channel.is_confirmed, channel.is_binding = NEVER, False, False
                expired.append(channel)
                continue
            channel.review_at = min(now + REVIEW_INTERVAL, channel.bound_at + BINDING_LIFETIME)
            if channel.is_confirmed and not channel.is_binding and (channel.has_received or has_received(channel)):
                channel.is_binding = True
                refresh.append(channel)
        self._review_at = min((channel.review_at for channel in self._by_number.values()), default=NEVER)
        return refresh, expired

    def _review(self, channel: Channel, at: Instant) -> None:
        channel.review_at = at
        self._review_at = min(self._review_at, at)

    def _free_number(self, now: Instant) -> int | None:
        """Goes round: numbers never used come first, then the next one that has cooled down."""
        is_full = len(self._by_number) == MAX_CHANNELS
        if is_full and now < self._full_until:
            return None
        for step in range(MAX_CHANNELS):
            number = FIRST_NUMBER + (self._next - FIRST_NUMBER + step) % MAX_CHANNELS
            holder = self._by_number.get(number)
            if holder is not None and not (is_full and holder.is_reusable(now)):
                continue
            if holder is not None:
                self.forget(holder)
            self._next = FIRST_NUMBER + (number + 1 - FIRST_NUMBER) % MAX_CHANNELS
            return number
        oldest = min(channel.bound_at for channel in self._by_number.values())
        self._full_until = oldest + BINDING_LIFETIME + COOL_DOWN
        return None


def encode_channel_data(number: int, payload: bytes) -> bytes:
    """Frames a payload; over UDP nothing is padded (RFC 8656 section 12.4)."""
    return number.to_bytes(2, "big") + len(payload).to_bytes(2, "big") + payload


def decode_channel_data(datagram: bytes) -> tuple[int, bytes] | None:
    """Returns number and payload; None unless the length matches exactly."""
    if len(datagram) < HEADER_SIZE or not FIRST_NUMBER <= int.from_bytes(datagram[:2], "big") <= LAST_NUMBER:
        return None
    payload = datagram[HEADER_SIZE:]
    return (int.from_bytes(datagram[:2], "big"), payload) if int.from_bytes(datagram[2:4], "big") == len(payload) else None
