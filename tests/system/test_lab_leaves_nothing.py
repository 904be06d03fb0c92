"""However the lab ends, nothing of it is left: no process, namespace, interface, firewall rule or file."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.harness.leftovers import Watch

pytestmark = pytest.mark.root

SEED = int(os.environ.get("FIREZONE_TEST_SEED", time.time_ns() % 100_000))
LONGEST_S = 7.0
"""Past the start of every program and into the transfers, which last longer."""
MOMENTS = 2
COMMAND = [sys.executable, "-m", "firezone.lab"]


def heed_signals() -> None:
    """Takes back what a shell or nohup has made our children ignore."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(watch: Watch, logs: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with (logs / "output").open("wb") as output:
        return subprocess.Popen(
            [*COMMAND, *arguments, "--logs", str(logs)], env=watch.environment, stdout=output, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=heed_signals,
        )  # fmt: skip


@pytest.mark.parametrize("turn", range(MOMENTS))
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL", "SIGHUP"])
def test_lab_killed_at_a_random_moment_leaves_nothing(name: str, turn: int, tmp_path: Path) -> None:
    # One early moment, while namespaces are being made, and later ones.
    moment = random.Random(f"{SEED} {name} {turn}").uniform(0.0, 1.2 if turn == 0 else LONGEST_S)
    print(f"FIREZONE_TEST_SEED={SEED}: {name} after {moment:.3f} s")
    watch = Watch()
    lab = start(watch, tmp_path, "demo", "--seconds", "20")
    watch.sample(moment)
    if name == "SIGINT":
        os.killpg(lab.pid, signal.SIGINT)  # as a terminal does: to everybody in the foreground
    else:
        lab.send_signal(signal.Signals[name])
    lab.wait(10)
    watch.assert_nothing_left()
    assert b"Traceback" not in (tmp_path / "output").read_bytes() or moment < 1.0


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
@pytest.mark.parametrize(
    "arguments", [("matrix", "--pairs", "full-cone:none,symmetric:none,*:none"), ("faults", "--only", "relay-of-peer")]
)
def test_matrix_or_faults_killed_at_a_random_moment_leave_nothing(arguments: tuple[str, ...], name: str, tmp_path: Path) -> None:
    moment = random.Random(f"{SEED} {arguments} {name}").uniform(0.0, LONGEST_S)
    print(f"FIREZONE_TEST_SEED={SEED}: {name} after {moment:.3f} s")
    watch, hosts = Watch(), Path("/etc/hosts").read_text()
    lab = start(watch, tmp_path, *arguments)
    watch.sample(moment)
    if name == "SIGTERM":
        lab.terminate()  # as a service manager or `timeout` does: the outer process alone
    else:
        os.killpg(lab.pid, signal.Signals[name])
    lab.wait(10)
    watch.assert_nothing_left()
    assert Path("/etc/hosts").read_text() == hosts
    assert b"Traceback" not in (tmp_path / "output").read_bytes() or moment < 1.0


def test_lab_whose_inner_process_is_killed_leaves_nothing_and_says_it_failed(tmp_path: Path) -> None:
    watch = Watch()
    lab = start(watch, tmp_path, "demo", "--seconds", "20")
    watch.sample(3.0)
    inner = [pid for pid, command in watch.processes().items() if command.startswith("unshare --fork")]
    assert len(inner) == 1
    os.kill(inner[0], signal.SIGKILL)
    assert lab.wait(10) != 0
    watch.assert_nothing_left()


def test_lab_that_ends_by_itself_leaves_nothing(tmp_path: Path) -> None:
    watch = Watch()
    lab = start(watch, tmp_path, "demo", "--seconds", "1")
    while lab.poll() is None:
        watch.sample(0.2)
    assert lab.returncode == 0, (tmp_path / "output").read_text()
    assert len([name for name in watch.namespaces if name.startswith("net:")]) >= 5
    watch.assert_nothing_left()


def test_interrupted_lab_takes_along_the_logs_that_nobody_asked_for(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [*COMMAND, "faults", "--only", "total-loss"]
    lab = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=heed_signals)
    while not list(tmp_path.glob("firezone-lab-*/1-total-loss/client.log")):
        assert lab.poll() is None
        time.sleep(0.05)
    os.killpg(lab.pid, signal.SIGINT)
    _, said = lab.communicate(timeout=10)
    assert (lab.returncode, said) == (130, b"The lab was ended by a signal; nothing of it is left.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL", "SIGHUP"])
def test_memory_mode_ends_by_the_signal_and_claims_no_result(name: str, tmp_path: Path) -> None:
    watch = Watch()
    lab = start(watch, tmp_path, "demo", "--memory", "--seconds", "20")
    watch.sample(2.0)
    lab.send_signal(signal.Signals[name])
    assert lab.wait(10) == (1 if name == "SIGINT" else -signal.Signals[name])
    watch.assert_nothing_left()
    said = (tmp_path / "output").read_text()
    assert "throughput, 20 s" in said
    assert "CPU" not in said
    assert not {"Traceback", "Warning", "error:"} & set(said.split())
