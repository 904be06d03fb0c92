"""The demo as a user runs it: the report, its JSON, its memory mode, and what wrong input gets."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness.lab import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def lab(
    *arguments: str, timeout: float = 120.0, stdin: str = "", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "firezone.lab", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False,
        input=stdin, env={**os.environ, **(environment or {})},
    )  # fmt: skip


def check_members(report: dict[str, Any]) -> None:
    assert report["ok"] is True
    assert report["errors"] == []
    assert report["path"].startswith("direct")
    assert report["connect_ms"] > 0
    assert set(report["throughput_gbps"]) == {"up", "down"}
    assert all(value > 0 for value in report["throughput_gbps"].values())


@pytest.mark.root
@pytest.mark.parametrize("way", ["direct", "relayed"])
def test_first_packets_are_measured_over_fresh_connections(tmp_path: Path, way: str) -> None:
    flags = ["--relayed"] if way == "relayed" else []
    done = lab("first-packet", "--rounds", "2", "--json", "--logs", str(tmp_path), *flags)
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ok"] else 1), done.stderr
    assert report["errors"] == []
    assert [len(times) for times in report["times_ms"].values()] == [2, 2]
    assert sum(report["paths"].values()) == 4
    assert all(path.startswith(way) for path in report["paths"])
    # Ten times what it takes on a quiet machine; a check that is lost and waited for, or a timer, is beyond it.
    assert max(report["started"]["max"], report["running"]["max"]) < 250


@pytest.mark.root
def test_demo_fetches_a_page_through_the_tunnel_and_says_so_in_json(tmp_path: Path) -> None:
    done = lab("demo", "--json", "--seconds", "1", "--logs", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    check_members(report)
    assert report["page"].startswith("Hello from the resource. You came as 10.20.0.1")
    assert set(report["rtt_ms"]) == {"p50", "p99"}
    assert set(report["cpu_s_per_gb"]) == {"client", "gateway"}
    assert all(value < 120 for value in report["resident_mib"].values())
    ways = {title: found["host"] for title, found in report["reached"].items()}
    assert ways == {
        "by name": "wiki.lab.internal", "by wildcard": "blog.apps.lab.internal", "by name, one port open": "locked.lab.internal",
        "through the Internet resource": "www.public.example",
    }  # fmt: skip
    assert report["reached"]["through the Internet resource"]["page"].startswith(
        "Hello from the resource. You came as 198.51.100.3"
    )
    assert report["refused"]["meaning"] == "communication administratively prohibited"
    assert (report["refused"]["type"], report["refused"]["code"]) in ((3, 13), (1, 1))
    assert report["revoked"]["stopped_after_s"] < 1
    assert report["revoked"]["ended_by"] == "silence"
    counters = json.loads((tmp_path / "client.counters.json").read_text())
    assert counters["udp"]["datagrams_per_send"] > 1


@pytest.mark.root
def test_relayed_demo_fetches_the_page_over_the_relay_alone(tmp_path: Path) -> None:
    done = lab("demo", "--relayed", "--json", "--seconds", "1", "--logs", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["path"].startswith("relayed via relay")
    assert report["page"].startswith("Hello from the resource.")
    assert all(value > 0 for value in report["throughput_gbps"].values())


def test_relayed_demo_cannot_be_had_in_memory() -> None:
    done = lab("demo", "--relayed", "--memory")
    assert done.returncode == 2
    assert "--relayed needs networks" in done.stderr


@pytest.mark.root
def test_report_for_people_names_path_and_logs(tmp_path: Path) -> None:
    done = lab("demo", "--seconds", "1", "--logs", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("it works", "direct, over", "Gbit/s", "s per GB", "round trip", f"logs: {tmp_path}"):
        assert word in done.stdout
    assert "throughput up" in done.stderr  # long steps show progress


def test_memory_mode_checks_every_packet_and_names_itself(tmp_path: Path) -> None:
    done = lab("demo", "--memory", "--json", "--seconds", "1", "--logs", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    check_members(report)
    assert report["mode"].startswith("memory")
    assert report["checked_packets"] == 6000
    assert 0 < report["rtt_ms"]["p50"] <= report["rtt_ms"]["p99"]
    assert report["cpu_s_per_gb"]["both"] > 0  # one process runs both


def test_refused_namespaces_are_told_in_one_sentence(tmp_path: Path) -> None:
    script = (
        "import firezone.lab.namespaces as n, sys; n.unshare_command = lambda: ['false']; "
        "sys.argv = ['lab', 'demo', '--seconds', '1', '--json', '--logs', sys.argv[1]]; "
        "import runpy; runpy.run_module('firezone.lab', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "No full lab: namespaces are refused here" in done.stderr
    assert "would allow the full lab" in done.stderr
    assert json.loads(done.stdout)["mode"].startswith("memory")


@pytest.mark.root
def test_demo_that_fails_names_the_program_and_quotes_its_log(tmp_path: Path) -> None:
    done = lab("demo", "--json", "--logs", str(tmp_path), environment={"HEALTH_CHECK_ADDR": "nonsense"})
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"]) == (1, False)
    assert f"The gateway ended with status 2. Its log is {tmp_path}/gateway.log" in report["errors"][0]
    assert "nonsense" in report["errors"][0]


@pytest.mark.root
def test_up_opens_a_shell_in_the_clients_network(tmp_path: Path) -> None:
    script = f"{sys.executable} -m firezone.lab.fetch 10.20.0.2 80 10; ip -br address show tun-firezone\n"
    done = lab("up", "--logs", str(tmp_path), stdin=script, environment={"SHELL": "/bin/sh"})
    assert done.returncode == 0, done.stderr
    assert "Hello from the resource" in done.stdout
    assert "tun-firezone" in done.stdout
    assert str(tmp_path) in done.stdout


@pytest.mark.root
def test_container_without_tun_devices_is_told_so_and_runs_in_memory(tmp_path: Path) -> None:
    script = 'mount -t tmpfs none /dev/net && exec "$@"'
    demo = [sys.executable, "-m", "firezone.lab", "demo", "--json", "--seconds", "1", "--logs", str(tmp_path)]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *demo], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "No full lab: /dev/net/tun does not exist; 'modprobe tun'" in done.stderr
    assert json.loads(done.stdout)["mode"].startswith("memory")


@pytest.mark.root
def test_ordinary_user_gets_the_full_lab(tmp_path: Path) -> None:
    interpreter, path = interpreter_of_all()
    as_nobody = [
        "setpriv",
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "env",
        "HOME=/",
        "PATH=/usr/bin:/bin",
        f"PYTHONPATH={path}",
    ]
    probe = subprocess.run([*as_nobody, "unshare", "--user", "--map-root-user", "--net", "true"], check=False, capture_output=True)
    if probe.returncode or not os.stat("/dev/net/tun").st_mode & 0o002:
        pytest.skip("machine lacks user namespaces or TUN devices for ordinary users")
    with tempfile.TemporaryDirectory() as logs:
        os.chown(logs, 65534, 65534)
        done = subprocess.run(
            [*as_nobody, interpreter, "-m", "firezone.lab", "demo", "--json", "--seconds", "1", "--logs", logs],
            cwd="/", capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    check_members(report)
    assert report["mode"].startswith("namespaces")


def interpreter_of_all() -> tuple[str, str]:
    """Returns a Python of our version that an ordinary user may run, and its path to our packages. Skips where there is none."""
    path = ":".join([str(ROOT), *site.getsitepackages()])
    code = "import sys, firezone.lab, click, uvloop; print(sys.version_info[:2])"
    for candidate in (sys.executable, "/usr/bin/python3"):
        command = ["setpriv", "--reuid", "65534", "--clear-groups", "env", f"PYTHONPATH={path}", candidate, "-c", code]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        if done.stdout.strip() == str(sys.version_info[:2]):
            return candidate, path
    pytest.skip("machine lacks an interpreter and packages that an ordinary user may read")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["fly"], "fly"), (["demo", "--seconds", "0"], "--seconds"), (["demo", "--seconds", "nan"], "nan"),
        (["demo", "--logs", "/proc/nowhere"], "nowhere"), (["demo", "more"], "more"),
        (["matrix", "--pairs", "none:cone"], "'cone' is no kind of network; there are none, full-cone"),
        (["matrix", "--rounds", "0"], "--rounds"), (["matrix", "--json", "/nowhere/found.json"], "cannot be written: No such file"),
        (["faults", "--only", "earthquake"], "'earthquake' is no fault; there are portal-restart"),
        (["faults", "--rounds", "many"], "--rounds"), (["faults", "--json", "/"], "cannot be written: Is a directory"),
    ],
)  # fmt: skip
def test_wrong_input_is_named_before_anything_starts(arguments: list[str], word: str) -> None:
    done = lab(*arguments)
    assert done.returncode == 2
    assert word in " ".join(done.stderr.split())
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert not done.stdout


@pytest.mark.parametrize(
    ("command", "former"), [("demo", "policy.toml"), ("matrix", "1-none-none/x"), ("faults", "2-total-loss/x")]
)
def test_logs_of_an_earlier_run_are_not_mixed_with_new_ones(command: str, former: str, tmp_path: Path) -> None:
    (tmp_path / former).parent.mkdir(exist_ok=True)
    (tmp_path / former).touch()
    done = lab(command, "--logs", str(tmp_path))
    assert done.returncode == 2
    assert "has the logs of an earlier run; name another directory" in " ".join(done.stderr.split())
