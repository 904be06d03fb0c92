"""What the relay's machine asks of the world around it: compiled tables for the data, sockets for the ports, datagrams sent.

Kernels and sockets implement the two protocols; tests have slow twins. Every call takes effect before the answer that follows
from it is sent, so a client that reads "success" can send at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from firezone.base.net import Endpoint


class ChannelStore(Protocol):
    """Where the compiled path looks up who speaks to whom. Numbers and peers are scoped to the client.

    Calls are idempotent: binding a bound channel or unbinding an unknown one changes nothing.
    """

    def bind(self, client: Endpoint, number: int, peer: Endpoint, port: int) -> None:
        """Lets data flow both ways from the next batch on: (client, number) to `peer` from `port`, and back.

        A number is never bound to a second peer without `unbind` in between, nor (port, peer) to a second number.
        """
        ...

    def unbind(self, client: Endpoint, number: int) -> None:
        """Stops both directions: the channel is cooling or gone."""
        ...

    def admit(self, client: Endpoint) -> None:
        """The client has an allocation: its control messages have a share of their own, which strangers cannot use up."""
        ...

    def dismiss(self, client: Endpoint) -> None:
        """The allocation is gone."""
        ...

    def allow(self, port: int, client: Endpoint, ip: bytes) -> None:
        """Has datagrams from any port of `ip` to `port` punted to `handle_peer_datagram` unless a channel takes them.

        Stand-alone mode only; without it they are dropped. `ip` has 4 or 16 bytes.
        """
        ...

    def revoke(self, port: int, client: Endpoint, ip: bytes) -> None:
        """Takes back `allow`."""
        ...


class PortBinder(Protocol):
    """Opens the sockets of allocations on the wildcard addresses."""

    def open(self, port: int, families: tuple[int, ...]) -> bool:
        """Opens one UDP socket per family (4, 6) on the port, all or none.

        Returns: False when another program holds it or no descriptor is left; the machine then tries another port.
        """
        ...

    def close(self, port: int) -> None:
        """Closes every socket of the port. All its channels were unbound before."""
        ...


@dataclass(frozen=True, slots=True)
class RelayTransmit:
    """A datagram the machine wants sent."""

    port: int | None
    """None: from the listen port. Otherwise from the socket of this allocation (stand-alone mode's Send indications)."""
    local: Endpoint | None
    """Local address the request came to, which the answer must leave from; None lets the kernel choose."""
    remote: Endpoint
    """Also tells the family of the socket."""
    payload: bytes
