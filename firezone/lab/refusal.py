"""Sends one datagram and tells which ICMP error comes back: `python -m firezone.lab.refusal HOST PORT TIMEOUT`, as JSON."""

from __future__ import annotations

import json
import select
import socket
import struct
import sys

IP_RECVERR, IPV6_RECVERR = 11, 25
_MEANINGS = {
    (1, 3, 13): "communication administratively prohibited", (1, 3, 1): "host unreachable", (1, 3, 3): "port unreachable",
    (2, 1, 1): "communication administratively prohibited", (2, 1, 3): "address unreachable", (2, 1, 4): "port unreachable",
}  # fmt: skip
"""By family (1: ICMP, 2: ICMPv6), type and code."""
_EXTENDED_ERROR = struct.Struct("=IBBBBII")
_FAMILIES = {2: 1, 3: 2}
"""Origin of an extended error (SO_EE_ORIGIN_ICMP, _ICMP6) to the family here."""


def provoke(host: str, port: int, timeout: float) -> dict[str, object] | None:
    """Returns type, code, meaning and sender of the error; None when none comes. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        sock.connect(address)
        sock.send(b"let me in")
        waiting = select.poll()
        waiting.register(sock, 0)
        if not waiting.poll(timeout * 1000):
            return None
        _, ancillary, _, _ = sock.recvmsg(64, 512, socket.MSG_ERRQUEUE)
    for _, _, data in ancillary:
        _, origin, kind, code, *_ = _EXTENDED_ERROR.unpack_from(data)
        if origin in _FAMILIES:
            meaning = _MEANINGS.get((_FAMILIES[origin], kind, code), "another error")
            return {"type": kind, "code": code, "meaning": meaning, "from": _offender(data[_EXTENDED_ERROR.size :])}
    return None


def _offender(address: bytes) -> str:
    """Reads the socket address behind an extended error."""
    if len(address) >= 24 and int.from_bytes(address[:2], sys.byteorder) == socket.AF_INET6:
        return socket.inet_ntop(socket.AF_INET6, address[8:24])
    return socket.inet_ntop(socket.AF_INET, address[4:8])


if __name__ == "__main__":
    try:
        print(json.dumps(provoke(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
    except OSError as error:
        sys.exit(f"{sys.argv[1]} port {sys.argv[2]}: {error}")
