"""The comparison with other tunnels: one short round, what it stores, and that killing it leaves nothing."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LACKS
from tests.harness.lab import ROOT
from tests.harness.leftovers import Watch

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("wireguard-go") is None or shutil.which("wg") is None, reason="machine lacks wireguard-go"),
]
COMMAND = [sys.executable, "-m", "perf", "--rounds", "1", "--seconds", "1", "--no-newest"]
VETH, OURS, RELAYED, DEBIANS = "veth, no tunnel", "this tunnel", "this tunnel, relayed", "wireguard-go, Debian's"
ROWS = ("idle", "tcp", "loaded", "syscalls", "udp", "small", "relay", "connections")


def test_comparison_stores_every_figure_of_every_contender(tmp_path: Path) -> None:
    stored = tmp_path / "figures.json"
    command = [*COMMAND, *(f"--only={name}" for name in (VETH, RELAYED, DEBIANS)), *(f"--rows={row}" for row in ROWS)]
    done = subprocess.run([*command, "--json", str(stored)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    value = json.loads(stored.read_text())
    results = {result["name"]: result["median"] for result in value["results"]}
    assert list(results) == [VETH, OURS, RELAYED, DEBIANS]
    assert all(result["version"] for result in value["results"])
    everywhere = [key for key, figure in value["figures"].items() if figure["group"] in ("idle", "tcp", "loaded", "udp")]
    of_tunnels = {"cpu_s_per_gb", "cpu_client_s_per_gb", "cpu_gateway_s_per_gb", "switches_per_gb", "client_mib", "echo_cpu_us"}
    for name, figures in results.items():
        wanted = set(everywhere) - {"cpu_relay_s_per_gb", "datagrams_per_send"} - (of_tunnels if name == VETH else set())
        assert wanted <= figures.keys(), name
        may_be_nothing = {"udp_lost_percent", "resent_percent"}
        assert all(value > 0 for key, value in figures.items() if key not in may_be_nothing), (name, figures)
    for name in (OURS, RELAYED, DEBIANS):
        assert {"small_up_per_cpu", "small_down_per_cpu"} <= results[name].keys()
    assert {"relay_up_per_cpu", "relay_down_per_cpu", "cpu_relay_s_per_gb"} <= results[RELAYED].keys()
    assert {"connections_per_cpu", "connections_per_s", "handshakes_per_cpu"} <= results[OURS].keys()
    assert "handshakes_per_cpu" in results[DEBIANS]
    assert results[OURS]["datagrams_per_send"] > 1
    assert "this tunnel against veth" in done.stdout
    assert "≥ 6 × wireguard-go, Debian's" in done.stdout
    assert stored.with_suffix(".png").exists()
    _compare_with_better_days(stored)


def _compare_with_better_days(stored: Path) -> None:
    """Compares a new run with the stored one, once as it is and once as if it had been far faster."""
    before = json.loads(stored.read_text())
    before["results"] = [result for result in before["results"] if result["name"] == OURS]
    before["results"][0]["rounds"][0]["rtt_p50_ms"] /= 100
    stored.write_text(json.dumps(before))
    command = [*COMMAND, "--only=veth", "--rows=idle", "--json", str(stored.with_name("new.json"))]
    done = subprocess.run([*command, "--against", str(stored)], cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "RTT idle, p50" in done.stdout
    assert "worse" in done.stdout


def test_comparison_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    watch = Watch()
    command = [*COMMAND, "--only=Debian", "--json", str(tmp_path / "figures.json")]
    with (tmp_path / "output").open("wb") as output:
        perf = subprocess.Popen(
            command, cwd=ROOT, env={**watch.environment, "TMPDIR": str(tmp_path)},
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    while perf.poll() is None and not any("wireguard-go -f" in command for command in watch.processes().values()):
        watch.sample(0.1)
    watch.sample(0.5)
    assert perf.poll() is None, (tmp_path / "output").read_text()
    perf.kill()
    perf.wait()
    watch.assert_nothing_left()
    # The two of the comparison; other tests have sockets of their own there.
    assert not any(Path("/run/wireguard", f"wg-{role}.sock").exists() for role in ("client", "gateway"))


def test_flows_are_counted_through_whole_tunnels(tmp_path: Path) -> None:
    stored = tmp_path / "figures.json"
    command = [sys.executable, "-m", "perf.scale", "--quick", "--only=Debian", "--no-newest", "--json", str(stored)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    value = json.loads(stored.read_text())
    assert list(value["flows"]) == list(value["kernels"]) == ["1", "1000"]
    for results in value["flows"].values():
        assert [result["name"] for result in results] == [OURS, DEBIANS]
        for result in results:
            figures = result["median"]
            assert all(figures[key] > 0 for key in ("up_kpps", "up_per_cpu", "down_kpps", "down_per_cpu", "client_mib")), figures


@pytest.mark.parametrize("module", ["perf", "perf.relay", "perf.scale"])
def test_word_that_is_in_no_name_is_refused(module: str) -> None:
    newest = ["--no-newest"] if module != "perf.relay" else []
    command = [sys.executable, "-m", module, "--only", "nothing", *newest]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "'nothing' is in no" in done.stderr


def test_name_servers_are_measured_beside_unbound(tmp_path: Path) -> None:
    if shutil.which("dnsperf") is None or shutil.which("unbound") is None:
        pytest.skip(f"{LACKS} dnsperf or unbound")
    stored = tmp_path / "figures.json"
    command = [sys.executable, "-m", "perf.dns", "--rounds", "1", "--seconds", "1", "--json", str(stored)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = {title: found[0] for title, found in json.loads(stored.read_text())["results"].items()}
    assert list(results) == [
        "addresses of resources",
        "kept answers of a server",
        "passed on to a server",
        "unbound, the same names",
    ]
    # The goal, by CPU: what else the machine does leaves it alone.
    assert 1e6 / results["addresses of resources"]["cpu_us"] >= 5000
    assert "times the CPU of unbound" in done.stdout


def test_a_profile_shows_programs_kernels_and_the_system_by_name(tmp_path: Path) -> None:
    if shutil.which("perf") is None:
        pytest.skip(f"{LACKS} perf")
    command = [sys.executable, "-m", "perf.record", "--relayed", "--seconds", "2", "--freq", "2000", "--out", str(tmp_path)]
    command += [f"--who={name}" for name in ("client", "gateway", "relay")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    if "does not let this user record" in done.stderr:
        pytest.skip(f"{LACKS} leave to record: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    picture = (tmp_path / "profile.svg").read_text()
    for frame in ("fz-client", "fz-gateway", "fz-relay", "path.Uplink.run_[f]", "path.Downlink.run_[f]", "fz_pump_run_[f]"):
        assert f">{frame}: " in picture, frame
    assert len(picture) < 300 * 1024
    for name in ("client", "gateway", "relay"):
        script = gzip.decompress((tmp_path / f"{name}.perf.gz").read_bytes()).decode()
        assert script.startswith(f"fz-{name} "), "as Firefox Profiler reads it"
        assert "%  " in done.stdout.partition(f"\n{name}: ")[2]
        assert sum(int(line.rpartition(" ")[2]) for line in (tmp_path / f"{name}.folded").read_text().splitlines()) > 200
        assert json.loads((tmp_path / f"{name}.counters.json").read_text())["program"] == name
