"""What is read of processes, against work whose amount is known."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from perf.handshakes import in_process
from perf.processes import NotCounted, SyscallCounter, context_switches, cpu_seconds


def test_cpu_of_all_threads_is_counted() -> None:
    before, clock = cpu_seconds(os.getpid()), time.process_time()
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            sum(range(1000))

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.2)
    counted, used = cpu_seconds(os.getpid()) - before, time.process_time() - clock
    over.set()
    thread.join()
    assert used > 0.02
    assert counted == pytest.approx(used, abs=0.05)


def test_every_sleep_is_a_context_switch() -> None:
    program = "import time; print(); input(); [time.sleep(0.0001) for _ in range(50)]; print(); input()"
    command = [sys.executable, "-uc", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        before = context_switches(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
        assert 50 <= context_switches(child.pid) - before < 300
        child.stdin.write("\n")


def test_system_calls_are_counted_in_threads_that_begin_later() -> None:
    try:
        with SyscallCounter([os.getpid()]) as counter:
            before = counter.count()
            for _ in range(1000):
                os.getppid()
            alone = counter.count() - before
            thread = threading.Thread(target=lambda: [os.getppid() for _ in range(500)])
            thread.start()
            thread.join()
            both = counter.count() - before
    except NotCounted as why:
        pytest.skip(f"machine lacks leave to count: {why}")
    assert 1000 <= alone < 1200
    assert 1500 <= both < 2200


def test_handshakes_that_are_counted_are_understood_by_their_callers() -> None:
    assert in_process(8) > 100
