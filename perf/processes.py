"""What the kernel knows of a running process: CPU time, context switches and system calls of all its threads."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

from firezone.base.errors import FirezoneError

_TRACE_ID = "events/raw_syscalls/sys_enter/id"
_TYPE_TRACEPOINT, _ATTR_SIZE = 2, 64
_FLAGS_INHERIT = 1 << 1
_NR_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_CLOEXEC = 1 << 3
_MNT_DETACH = 2
_LIBC = ctypes.CDLL(None, use_errno=True)


class NotCounted(FirezoneError):
    """The kernel does not tell; the message says why."""


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads that run now, in nanoseconds where the kernel counts them so finely.

    What the kernel does for a sender until its datagram is in another's queue is the sender's.
    """
    tasks = _read_all(pid, "schedstat")
    if tasks:
        return sum(int(text.split()[0]) for text in tasks) / 1e9
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def context_switches(pid: int) -> int:
    """Times that a thread of it went to sleep or was made to wait."""
    texts = _read_all(pid, "status")
    return sum(int(number) for text in texts for number in re.findall(r"ctxt_switches:\s*(\d+)", text))


def _read_all(pid: int, name: str) -> list[str]:
    """Reads a file of every thread; one that ends meanwhile is left out."""
    texts = []
    for path in Path(f"/proc/{pid}/task").glob(f"*/{name}"):
        with contextlib.suppress(OSError):
            texts.append(path.read_text())
    return texts


@dataclass
class SyscallCounter:
    """Counts the system calls of processes from when it is entered, by an event of each thread; new threads are counted too.

    While it counts, every system call of the machine takes some 0.1 µs longer.
    """

    pids: list[int]
    _events: list[int] = field(default_factory=list)

    def __enter__(self) -> SyscallCounter:
        """Raises NotCounted."""
        number = _trace_id()
        try:
            for pid in self.pids:
                for task in os.listdir(f"/proc/{pid}/task"):
                    self._events.append(_open_event(number, int(task)))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for event in self._events:
            os.close(event)
        self._events.clear()

    def count(self) -> int:
        """Returns the calls so far."""
        total = 0
        for event in self._events:
            total += struct.unpack("Q", os.read(event, 8))[0]
        return total


def _open_event(trace_id: int, task: int) -> int:
    attributes = bytearray(_ATTR_SIZE)
    struct.pack_into("=IIQ", attributes, 0, _TYPE_TRACEPOINT, _ATTR_SIZE, trace_id)
    struct.pack_into("=Q", attributes, 40, _FLAGS_INHERIT)
    buffer = (ctypes.c_char * _ATTR_SIZE).from_buffer(attributes)
    number = _NR_PERF_EVENT_OPEN.get(os.uname().machine)
    if number is None:
        raise NotCounted(f"System calls are not counted on {os.uname().machine}.")
    event: int = _LIBC.syscall(number, buffer, task, -1, -1, _CLOEXEC)
    if event < 0:
        why = os.strerror(ctypes.get_errno())
        raise NotCounted(f"System calls cannot be counted ({why}); root, or CAP_PERFMON, would allow it.")
    return event


def _trace_id() -> int:
    """Returns the kernel's number of the event. Mounts the file system it is found in for a moment, in our own mount namespace."""
    for root in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"):
        with contextlib.suppress(OSError):
            return int(Path(root, _TRACE_ID).read_text())
    mounted = Path("/run/firezone-tracing")
    mounted.mkdir(exist_ok=True)
    if _LIBC.mount(b"tracefs", str(mounted).encode(), b"tracefs", 0, None):
        why = os.strerror(ctypes.get_errno())
        raise NotCounted(f"System calls cannot be counted: tracefs is not mounted and cannot be ({why}).")
    try:
        return int((mounted / _TRACE_ID).read_text())
    except OSError as error:
        raise NotCounted("This kernel was built without CONFIG_FTRACE_SYSCALLS.") from error
    finally:
        _LIBC.umount2(str(mounted).encode(), _MNT_DETACH)
        mounted.rmdir()
