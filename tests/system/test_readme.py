"""The README's commands that read what programs leave do what the README says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.lab import ROOT

README = (ROOT / "README.md").read_text()


def command(part: str) -> str:
    """Returns the command of the README that has this part."""
    found = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if part in line]
    assert len(found) == 1, f"{part!r} is in {len(found)} commands of README.md"
    return str(found[0])


@pytest.mark.root
@pytest.mark.skipif(shutil.which("jq") is None, reason="machine lacks jq")
def test_jq_reads_the_logs_and_the_report(tmp_path: Path) -> None:
    demo = [sys.executable, "-m", "firezone.lab", "demo", "--json", "--seconds", "1", "--logs", str(tmp_path)]
    report = subprocess.run(demo, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout
    shown = subprocess.run(
        command("firezone-gateway.latest").replace("LOGDIR", str(tmp_path)), shell=True, capture_output=True, text=True, check=True
    ).stdout
    lines = [line.split("\t") for line in shown.splitlines()]
    assert all(len(line) == 4 for line in lines), shown
    assert any(line[1] == "INFO" and line[3] == "tunnel configured" for line in lines), shown
    script = command("demo --json").partition("| ")[2]
    picked = subprocess.run(script, shell=True, input=report, capture_output=True, text=True, check=True).stdout
    assert json.loads(picked)["ok"] is True
    assert list(json.loads(picked)) == ["ok", "path", "connect_ms", "rtt_ms", "throughput_gbps", "cpu_s_per_gb", "errors"]


@pytest.mark.parametrize("program", ["client", "gateway", "portal", "lab"])
def test_programs_of_the_readme_are_there(program: str) -> None:
    assert f"python -m firezone.{program}" in README
    done = subprocess.run(
        [sys.executable, "-m", f"firezone.{program}", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "Usage" in done.stdout
