"""Every example of `docs/policy.md` is run: the policies are read, the commands work one after the other."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from firezone.loop.portal_policy import parse_policy

PAGE = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
POLICIES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [
    line.removeprefix("$ ") for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
]


@pytest.mark.parametrize("text", POLICIES)
def test_the_policies_are_good(text: str) -> None:
    book = parse_policy(text, Path("policy.toml"))
    assert book.policies
    assert book.resources


def test_the_commands_work_in_their_order(tmp_path: Path) -> None:
    assert len(COMMANDS) > 10
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    for command in COMMANDS:
        words = shlex.split(command)
        assert words[0] == "python"
        done = subprocess.run(
            [sys.executable, *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
    assert done.stdout == "policy.toml is fine: 2 sites, 1 user, 2 tokens, 0 relays, 3 resources, 3 policies.\n"


def test_every_key_of_the_policy_is_named_on_the_page() -> None:
    from firezone.proto.portal import config

    for table in (
        config._Account,
        config._Site,
        config._User,
        config._Group,
        config._Resource,
        config._Policy,
        config._ClientToken,
    ):
        for key in table.__struct_fields__:
            assert f"`{key}`" in PAGE or f"`{key} = " in PAGE, (table.__name__, key)
