"""The comparison with other tunnels: one short round, what it stores, and that killing it leaves nothing."""

from __future__ import annotations

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


def test_comparison_stores_every_figure_of_every_contender(tmp_path: Path) -> None:
    stored = tmp_path / "figures.json"
    done = subprocess.run([*COMMAND, "--json", str(stored)], cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = {result["name"]: result["median"] for result in json.loads(stored.read_text())["results"]}
    assert list(results)[:3] == ["veth, no tunnel", "this tunnel", "this tunnel, relayed"]
    assert "wireguard-go, Debian's" in results
    for name, figures in results.items():
        assert all(figures[key] > 0 for key in ("up_gbps", "down_gbps", "rtt_p50_ms", "rtt_p99_ms")), name
    assert all(results[name]["cpu_s_per_gb"] > 0 for name in list(results)[1:])
    assert results["this tunnel"]["datagrams_per_send"] > 1
    assert "this tunnel against veth" in done.stdout
    assert stored.with_suffix(".png").exists()


def test_comparison_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    watch = Watch()
    with (tmp_path / "output").open("wb") as output:
        perf = subprocess.Popen(
            [*COMMAND, "--json", str(tmp_path / "figures.json")], cwd=ROOT, env={**watch.environment, "TMPDIR": str(tmp_path)},
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


@pytest.mark.parametrize("module", ["perf", "perf.relay"])
def test_word_that_is_in_no_name_is_refused(module: str) -> None:
    newest = ["--no-newest"] if module == "perf" else []
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
