"""What an allocation tells the node above it."""

from __future__ import annotations

from dataclasses import dataclass

from firezone.base.net import Endpoint
from firezone.wire.candidate import Candidate


@dataclass(frozen=True, slots=True)
class CandidateFound:
    """An address of ours: the one we send from, the one the relay sees, or one it lends us."""

    candidate: Candidate
    crosses_family: bool = False
    """Of a lent address: its family is not the one spoken with the relay."""


@dataclass(frozen=True, slots=True)
class CandidateLost:
    """A lent address is no longer ours. Others are never taken back: they may well work without the relay."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class ChannelBound:
    """The relay passes what this peer sends and what we send it, from now on: what was sent before is lost."""

    lent: Endpoint
    """Our address of the peer's family."""
    peer: Endpoint


@dataclass(frozen=True, slots=True)
class ChannelChanged:
    """What is sent to this peer goes by another number from now on, or by none."""

    lent: Endpoint
    """Our address of the peer's family."""
    peer: Endpoint


@dataclass(frozen=True, slots=True)
class RelaySilent:
    """The relay leaves questions unanswered: see whether others answer."""

    since: int
    """Instant of the first question."""


AllocationEvent = CandidateFound | CandidateLost | ChannelBound | ChannelChanged | RelaySilent
