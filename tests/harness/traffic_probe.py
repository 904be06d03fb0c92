"""What a program on a host of the lab sees: `python -m tests.harness.traffic_probe WHAT ARGUMENT...` prints one JSON value.

Sockets are the kernel's own, and errors are those that the kernel hands to a program.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import select
import socket
import struct
import sys
import time
from typing import Any

from tests.harness.traffic_servers import pattern

IP_RECVERR, IPV6_RECVERR, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO, PMTUDISC_PROBE = 11, 25, 10, 23, 2, 3
WAIT_S = 3.0
_EXTENDED_ERROR = struct.Struct("=IBBBBII")
_FROM_ICMP = (2, 3)
"""SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6; 1 is the host's own refusal."""


def datagrams(host: str, port: str, *sizes: str) -> list[int | str]:
    """Sends datagrams of these sizes, unfragmented, and tells how large each comes back, or which error the socket has."""
    answers: list[int | str] = []
    with connected(socket.SOCK_DGRAM, host, int(port)) as sock:
        set_dont_fragment(sock, PMTUDISC_DO)
        sock.settimeout(WAIT_S)
        for size in map(int, sizes):
            message = os.urandom(size)
            try:
                sock.send(message)
                answers.append(size if sock.recv(4096) == message else "another")
            except OSError as error:
                answers.append(name_of(error))
    return answers


def attempt(kind: str, host: str, port: str) -> dict[str, Any]:
    """Connects, or sends a datagram; tells the error that a program gets and after how many seconds."""
    start = time.monotonic()
    try:
        with connected(socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM, host, int(port)) as sock:
            sock.settimeout(WAIT_S)
            if kind == "udp":
                listen_to_errors(sock)  # Without it Linux keeps "unreachable" from datagram sockets.
                sock.send(b"let me in")
                sock.recv(100)
        error = ""
    except OSError as raised:
        error = name_of(raised)
    return {"error": error, "after": round(time.monotonic() - start, 3)}


def ask(host: str, port: str, line: str) -> str:
    """Connects, sends a line and returns the answer, or the error that a program gets."""
    try:
        with connected(socket.SOCK_STREAM, host, int(port)) as sock, sock.makefile("rw") as stream:
            stream.write(f"{line}\n")
            stream.flush()
            return stream.readline().strip()
    except OSError as error:
        return name_of(error)


def transfer(host: str, port: str, size: str) -> dict[str, Any]:
    """Sends as many bytes as it then receives; tells whether both arrived whole, and how long that took."""
    data = pattern(int(size))
    start = time.monotonic()
    with connected(socket.SOCK_STREAM, host, int(port)) as sock, sock.makefile("rb") as stream:
        sock.settimeout(30)
        sock.sendall(f"upload {size}\n".encode() + data)
        sent = stream.readline().split()[-1].decode() == hashlib.sha256(data).hexdigest()
        sock.sendall(f"download {size}\n".encode())
        received = stream.read(len(data)) == data
    return {"sent": sent, "received": received, "after": time.monotonic() - start}


def error_of(host: str, port: str, size: str) -> dict[str, Any] | None:
    """Sends a datagram and returns the ICMP error that comes for it; None: it is answered, or nothing comes."""
    with connected(socket.SOCK_DGRAM, host, int(port)) as sock:
        set_dont_fragment(sock, PMTUDISC_DO)
        listen_to_errors(sock)
        sock.send(bytes(int(size)))
        return next_error(sock)


def answer_large(port: str, size: str, address: str) -> dict[str, Any] | None:
    """Takes one datagram, answers with one of another size, unfragmented, and returns the ICMP error that comes for that."""
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as sock:
        set_dont_fragment(sock, PMTUDISC_PROBE)
        listen_to_errors(sock)
        sock.bind((address, int(port)))
        sock.settimeout(WAIT_S)
        print("ready", flush=True)
        _, peer = sock.recvfrom(100)
        sock.sendto(bytes(int(size)), peer)
        error = next_error(sock)
        sock.sendto(b"what fits", peer)
        return error


def trace(kind: str, host: str, port: str) -> list[list[Any]]:
    """Traces the way by datagrams to a closed port, or by echo requests: [sender, type, code] per hop, `reply` at the end."""
    hops: list[list[Any]] = []
    for ttl in range(1, 6):
        with open_tracer(kind, host, int(port)) as sock:
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
            listen_to_errors(sock)
            sock.send(struct.pack("!BBHHH", 8 if sock.family == socket.AF_INET else 128, 0, 0, 1, ttl) if kind == "icmp" else b"x")
            error = next_error(sock)
            if error is not None:
                hops.append([error["from"], error["type"], error["code"]])
                if error["type"] not in (11, 3) or (error["type"] == 3 and sock.family == socket.AF_INET):
                    break
            elif select.select([sock], [], [], 0)[0]:
                hops.append([sock.getpeername()[0], "reply", 0])
                break
            else:
                hops.append([None, None, None])
    return hops


def talk(host: str, port: str, source_port: str = "0") -> None:
    """Holds a connection: sends every line of the standard input and prints what comes back. JSON lines."""
    with connected(socket.SOCK_STREAM, host, int(port), int(source_port)) as sock, sock.makefile("rw") as stream:
        say({"peer": sock.getpeername()[0]})
        for line in sys.stdin:
            try:
                stream.write(line)
                if line.startswith("upload "):
                    stream.write("x" * int(line.split()[1]))
                stream.flush()
                say(stream.readline().strip())
            except OSError as error:
                say(name_of(error))


def exchange(host: str, port: str) -> None:
    """Holds one datagram socket: sends every line of the standard input and prints what comes back. JSON lines."""
    with connected(socket.SOCK_DGRAM, host, int(port)) as sock:
        say({"peer": sock.getpeername()[0]})
        sock.settimeout(WAIT_S)
        for line in sys.stdin:
            try:
                sock.send(line.strip().encode())
                say(sock.recv(4096).decode())
            except OSError as error:
                say(name_of(error))


# sockets


def connected(kind: int, host: str, port: int, source_port: int = 0) -> socket.socket:
    """Returns a socket connected to the first address of a host that lets it. Raises the last OSError."""
    last = OSError(f"{host} has no address")
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=kind):
        sock = socket.socket(family, kind)
        try:
            sock.settimeout(WAIT_S)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if source_port:
                sock.bind(("", source_port))
            sock.connect(address)
        except OSError as error:
            sock.close()
            last = error
        else:
            return sock
    raise last


def open_tracer(kind: str, host: str, port: int) -> socket.socket:
    """Returns a socket that traces: for datagrams, or for echo requests (whose checksum and identifier the kernel sets)."""
    if kind == "udp":
        return connected(socket.SOCK_DGRAM, host, port)
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    # Ping sockets are for groups that net.ipv4.ping_group_range names; the lab names them all.
    sock = socket.socket(family, socket.SOCK_DGRAM, socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6)
    sock.connect(address)
    return sock


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def set_dont_fragment(sock: socket.socket, how: int) -> None:
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, how)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, how)


def listen_to_errors(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)


def next_error(sock: socket.socket) -> dict[str, Any] | None:
    """Waits for an ICMP error or an answer; None: no error."""
    waiting = select.poll()
    waiting.register(sock, select.POLLIN)
    if not any(event & select.POLLERR for _, event in waiting.poll(WAIT_S * 1000)):
        return None
    _, ancillary, _, _ = sock.recvmsg(2048, 512, socket.MSG_ERRQUEUE)
    for _, _, data in ancillary:
        _, origin, kind, code, _, info, _ = _EXTENDED_ERROR.unpack_from(data)
        if origin in _FROM_ICMP:
            return {"type": kind, "code": code, "mtu": info, "from": offender(data[_EXTENDED_ERROR.size :])}
    return None


def offender(address: bytes) -> str:
    """Reads the socket address behind an extended error."""
    if int.from_bytes(address[:2], sys.byteorder) == socket.AF_INET6:
        return socket.inet_ntop(socket.AF_INET6, address[8:24])
    return socket.inet_ntop(socket.AF_INET, address[4:8])


def name_of(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    return errno.errorcode.get(error.errno or 0, str(error))


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


PROBES = {
    "datagrams": datagrams, "attempt": attempt, "ask": ask, "transfer": transfer, "error": error_of, "large": answer_large,
    "trace": trace, "talk": talk, "exchange": exchange,
}  # fmt: skip

if __name__ == "__main__":
    found = PROBES[sys.argv[1]](*sys.argv[2:])  # type: ignore[operator]
    if found is not None or sys.argv[1] in ("error", "large"):
        say(found)
