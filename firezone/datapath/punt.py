"""Where rows leave the compiled path: each punted row becomes one call on the machine.

The number of calls per batch is bounded, because one call costs as much as hundreds of rows on the fast path: whoever floods
us with handshakes takes the bound, not the tick. What is over the bound is dropped and counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from firezone.base.errors import FirezoneError
from firezone.base.ids import PeerRow
from firezone.base.net import Endpoint
from firezone.kernels.types import Reason, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy import uint32
    from numpy.typing import NDArray

    from firezone.base.timing import Instant
    from firezone.kernels.batch import PacketBatch
    from firezone.proto.machine import Machine

PUNTS_PER_BATCH = 128
"""Calls on a machine per batch: about 3 ms at 25 us each. Half of it would slow the start of many flows, double lets a
flood of forged handshakes hold a tick for twice as long."""

_FROM_TUN = {int(Reason.NO_PEER), int(Reason.NO_PATH)}
_DATAGRAMS = {int(Reason.STUN), int(Reason.HANDSHAKE), int(Reason.CHANNEL_DATA)}
_REFUSED = {int(Reason.REFUSED_SOURCE), int(Reason.REFUSED_DESTINATION), int(Reason.NO_TRANSLATION)}


def deliver_punted(
    batch: PacketBatch,
    machine: Machine,
    now: Instant,
    on_error: Callable[[Exception], None],
    dropped: NDArray[uint32],
    on_called: Callable[[], None] | None = None,
) -> int:
    """Calls the machine for the punted rows of a batch, oldest first, and `on_called` after each call.

    Shapes:  dropped (256,) uint32, counters per reason; rows over the bound and unrecognised datagrams are added.
    Returns: how many calls were made.
    """
    calls = 0
    for row in batch.rows(Verdict.PUNT).tolist():
        reason = int(batch.reason[row])
        if reason == Reason.UNKNOWN_DATAGRAM:
            continue  # Counted under its own reason already; no machine has a use for it.
        if calls >= PUNTS_PER_BATCH:
            dropped[Reason.PUNT_LIMIT] += 1
            continue
        calls += 1
        try:
            _deliver_row(batch, row, reason, machine, now)
        except FirezoneError as error:
            on_error(error)
        if on_called is not None:
            on_called()
    return calls


def _deliver_row(batch: PacketBatch, row: int, reason: int, machine: Machine, now: Instant) -> None:
    data = batch.row_bytes(row)
    if reason in _DATAGRAMS:
        machine.handle_datagram(endpoint_of(batch.local[row]), endpoint_of(batch.remote[row]), data, int(batch.ecn[row]), now)
    elif reason in _FROM_TUN:
        machine.handle_packet(data, int(batch.ecn[row]), Reason(reason), now)
    elif reason in _REFUSED:
        machine.handle_refused(PeerRow(int(batch.peer[row])), data, Reason(reason), now)
    else:
        machine.handle_control(PeerRow(int(batch.peer[row])), data, now)


def endpoint_of(address: Any) -> Endpoint:
    """Converts one element of an address column (`types.ADDRESS`) to an Endpoint."""
    size = 4 if address["family"] == 4 else 16
    return Endpoint(address["ip"][:size].tobytes(), int(address["port"]))
