"""Client and gateway at our portal, each in either generation of its protocol: the portal translates between them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

DEMO = """
import json, sys
from pathlib import Path
from firezone.lab.memory_demo import run_memory_demo
report = run_memory_demo(Path(sys.argv[1]), 0.2, lambda _: None, generations=(int(sys.argv[2]), int(sys.argv[3])))
print(json.dumps([report.errors, report.checked_packets]))
"""


@pytest.mark.parametrize(("client", "gateway"), [(2, 2), (2, 1), (1, 2)])
def test_packets_cross_whatever_generation_either_end_speaks(tmp_path: Path, client: int, gateway: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DEMO, str(tmp_path), str(client), str(gateway)], env={**os.environ, "RUST_LOG": "debug"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    errors, checked = json.loads(done.stdout)
    assert (errors, checked) == ([], 6000)
    text = "".join(path.read_text() for path in tmp_path.rglob("*.log"))
    told = set(re.findall(r"(\w*Broadcast\w*Candidates|NewGatewayIceCandidates)", text))
    assert ("NewGatewayIceCandidates" in told) is (client == 2)
