"""The parse stage: accepts or refuses the packets of a batch and fills the columns that name their flows."""
from firezone.kernels.batch cimport PacketBatch
from firezone.kernels.ip cimport fz_ip_parse_batch


def parse_batch(PacketBatch batch not None, bint from_tunnel) -> int:
    """Parses every FORWARD row: fills ip_version, protocol, transport, flags and ports, or refuses the row.

    Refused are packets over 1280 bytes, headers that contradict each other or the length, and fragments. Out of the tunnel,
    padding is cut off, control packets are punted, and an outer CE mark is merged into ECN-capable packets with the IPv4
    checksum kept valid; into the tunnel, the ECN column is filled from the packet. Checksums are not verified.

    Returns: how many rows are left with verdict FORWARD.
    Source:  RFC 791, RFC 8200, RFC 6040 section 4 except that CE on a Not-ECT packet is ignored, RFC 6946.
    """
    with nogil:
        left = fz_ip_parse_batch(&batch._c, from_tunnel)
    return left
