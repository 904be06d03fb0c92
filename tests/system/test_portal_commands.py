"""The portal's subcommands on real files, with a portal that runs and without one."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import threading
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from firezone.portal.policy_text import comments_of
from firezone.wire.portal import client, gateway
from tests.system import test_portal_program as programs
from tests.system.test_portal_program import COMMAND, DEADLINE_S, Device, Program, run, token

directory, port, start, devices = programs.directory, programs.port, programs.start, programs.devices


def at(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run("--config", str(directory / "policy.toml"), *arguments)


def good(directory: Path, *arguments: str) -> str:
    """Runs a command that works. No comment of the policy is lost by it."""
    before = Counter(comments_of((directory / "policy.toml").read_text()))
    done = at(directory, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not before - Counter(comments_of((directory / "policy.toml").read_text()))
    return done.stdout


def rows(directory: Path, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(good(directory, kind, "list", "--json"))
    return found


def test_every_kind_is_added_listed_switched_and_removed(directory: Path) -> None:
    good(directory, "site", "add", "Annex")
    good(directory, "user", "add", "ann", "--group", "Staff", "--group", "Family")
    good(directory, "group", "add", "Staff", "me", "ann")
    good(directory, "resource", "add", "Wiki", "*.wiki.example.com", "--site", "Annex", "--site", "Home", "--filter", "tcp/443",
         "--ip-stack", "ipv4_only", "--for", "Staff")  # fmt: skip
    good(directory, "resource", "add", "Out", "--internet", "--site", "Annex")
    good(directory, "policy", "add", "Staff", "Out", "--name", "out", "--expires", "2040-01-01T00:00:00+02:00", "--remote-ip",
         "10.0.0.0/8", "--hours", "M/08:00-12:00/UTC")  # fmt: skip
    policy = tomllib.loads((directory / "policy.toml").read_text())
    assert policy["group"] == [{"name": "Staff", "members": ["ann", "me"]}, {"name": "Family", "members": ["ann"]}]
    assert policy["resource"][2] == {
        "name": "Wiki", "address": "*.wiki.example.com", "sites": ["Annex", "Home"], "ip_stack": "ipv4_only",
        "filters": ["tcp/443"],
    }  # fmt: skip
    assert policy["resource"][3] == {"name": "Out", "internet": True, "sites": ["Annex"]}
    assert [row["name"] for row in rows(directory, "policy")][-2:] == ["Staff:Wiki", "out"]
    assert rows(directory, "user")[1]["groups"] == ["Staff", "Family"]

    for kind, name in (("site", "Annex"), ("user", "ann"), ("resource", "Wiki"), ("policy", "Staff:Wiki"), ("policy", "out")):
        good(directory, kind, "disable", name)
        assert next(row for row in rows(directory, kind) if row["name"] == name)["state"] == "disabled"
        good(directory, kind, "enable", name)
        assert next(row for row in rows(directory, kind) if row["name"] == name)["state"] == "on"
    good(directory, "group", "leave", "Family", "ann")
    good(directory, "policy", "remove", "out")
    assert "policy 'Staff:Wiki'" in good(directory, "resource", "remove", "Wiki", "--cascade")
    assert "resource 'Out'" in good(directory, "site", "remove", "Annex", "--cascade")
    good(directory, "user", "remove", "ann", "--cascade")
    good(directory, "group", "remove", "Staff")
    assert [row["name"] for row in rows(directory, "resource")] == ["Web server", "Net", "Out"]
    assert "is fine" in at(directory, "--check").stdout


def test_a_policy_with_comments_everywhere_keeps_them_all(directory: Path) -> None:
    text = (directory / "policy.toml").read_text()
    text = text.replace('name = "me"', 'name = "me"  # that is me').replace("[[user]]", "[[user]]  # people")
    text += '\n# my brother\n[[user]] # b\nname = "tom" # t\n# until he moves\n\n# ---- the end ----'
    (directory / "policy.toml").write_text(text)
    good(directory, "user", "add", "ann")
    good(directory, "user", "disable", "tom")
    good(directory, "user", "enable", "me")
    good(directory, "user", "remove", "tom")
    after = (directory / "policy.toml").read_text()
    for comment in ("# that is me", "# people", "# my brother", "# b", "# t", "# until he moves", "# ---- the end ----"):
        assert comment in after
    assert 'name = "tom"' not in after


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["resource", "add", "Web server", "10.0.0.1"], "there is a resource 'Web server' already"),
        (["resource", "add", "X", "10.0.0.1/8"], "10.0.0.0/8 is one"),
        (["resource", "add", "X", "a b"], "neither an address, a network nor a DNS name"),
        (["resource", "add", "X", "10.0.0.1", "--site", "Nowhere"], "there is no site 'Nowhere' (known: 'Home')"),
        (["resource", "add", "X", "10.0.0.1", "--for", "Nobody"], "there is no group 'Nobody'"),
        (["resource", "disable", "Wbe server"], "There is no resource 'Wbe server'"),
        (["resource", "remove", "Web server"], "still used: policy 'Everyone:Web server'"),
        (["user", "remove", "me"], "still used: client token 'first client'"),
        (["site", "remove", "Home"], "gateway token 'first gateway'"),
        (["policy", "add", "Everyone", "Net"], "There is a policy 'Everyone:Net' already"),
        (["policy", "add", "Everyone", "Net", "--name", "x", "--expires", "tomorrow"], "no date and time"),
        (["policy", "add", "Everyone", "Net", "--name", "x", "--expires", "2030-01-01T00:00:00"], "needs a zone"),
        (["policy", "add", "Everyone", "Net", "--name", "x", "--hours", "X/1/UTC"], "with a day of MTWRFSU"),
        (["policy", "disable", "x"], "(known: 'Everyone:Web server', 'Everyone:Net')"),
        (["token", "revoke", "x"], "(known: 'first gateway', 'first client')"),
        (["token", "add", "client", "--for", "nobody", "--out", "OUT"], "there is no user 'nobody'"),
        (["token", "add", "client", "--for", "me", "--name", "first client", "--out", "OUT"], "a token 'first client' already"),
        (["group", "add", "Everyone", "me"], "already"),
        (["group", "leave", "Nobody", "me"], "There is no group 'Nobody'"),
        (["device", "remove", "x"], "There is no device 'x' (known: none)"),
    ],
)
def test_a_mistake_is_one_sentence_and_changes_nothing(directory: Path, arguments: list[str], says: str) -> None:
    before = (directory / "policy.toml").read_bytes()
    given = [str(directory / "out.token") if word == "OUT" else word for word in arguments]
    done = at(directory, *given)
    assert done.returncode == 1, done.stdout
    assert says in done.stderr
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1
    assert (directory / "policy.toml").read_bytes() == before
    assert not (directory / "out.token").exists()
    assert not list(directory.glob(".policy.toml.*"))


def test_the_file_keeps_its_mode_and_a_link_its_target(directory: Path) -> None:
    (directory / "real").mkdir()
    shutil.move(directory / "policy.toml", directory / "real" / "p.toml")
    os.chmod(directory / "real" / "p.toml", 0o640)
    os.symlink(directory / "real" / "p.toml", directory / "policy.toml")
    good(directory, "site", "add", "Annex")
    assert (directory / "policy.toml").is_symlink()
    assert stat.S_IMODE((directory / "real" / "p.toml").stat().st_mode) == 0o640
    assert 'name = "Annex"' in (directory / "real" / "p.toml").read_text()


def test_commands_at_one_time_take_turns_and_no_reader_sees_half_a_file(directory: Path) -> None:
    path, is_over, seen = directory / "policy.toml", threading.Event(), []

    def read() -> None:
        while not is_over.is_set():
            seen.append(len(tomllib.loads(path.read_text())["site"]))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        adding = [
            subprocess.Popen([*COMMAND, "--config", str(path), "site", "add", f"Site {number}"], stdout=subprocess.DEVNULL)
            for number in range(6)
        ]
        assert [process.wait(DEADLINE_S * 2) for process in adding] == [0] * 6
    finally:
        is_over.set()
        reader.join()
    assert len(tomllib.loads(path.read_text())["site"]) == 7
    assert seen == sorted(seen)


async def test_edits_reach_the_devices_of_a_running_portal_at_once(
    directory: Path,
    port: int,
    start: Callable[..., Program],
    devices: list[Device],
) -> None:
    program = start()
    await program.until("listening")
    asker = Device(port, "client", token(directory, "client"), 1)
    devices.append(asker)
    await asker.next(client.Init)
    assert "The running portal has taken it." in good(directory, "resource", "add", "Wiki", "*.wiki.test", "--for", "Everyone")
    created = await asker.next(client.ResourceCreatedOrUpdated)
    assert created.resource.address == "*.wiki.test"
    good(directory, "resource", "disable", "Wiki")
    assert (await asker.next(client.ResourceDeleted)).resource_id == created.resource.id
    good(directory, "token", "revoke", "first client")
    await program.until("a login is no longer valid")


async def test_devices_are_administered_while_the_portal_runs_and_while_it_does_not(
    directory: Path,
    port: int,
    start: Callable[..., Program],
    devices: list[Device],
) -> None:
    program = start()
    await program.until("listening")
    served = Device(port, "gateway", token(directory, "gateway"), 2)
    asker = Device(port, "client", token(directory, "client"), 1)
    devices += [served, asker]
    await served.next(gateway.Init)
    seen = await asker.next(client.Init)
    asker.connection.send(client.CreateFlow(resource_id=seen.resources[0].id, connected_gateway_ids=()))
    await served.next(gateway.AuthorizeFlow)
    await asker.next(client.FlowCreated)
    listed = rows(directory, "device")
    assert [(row["role"], row["owner"], row["state"]) for row in listed] == [
        ("client", "me", "online"), ("gateway", "Home", "online"),
    ]  # fmt: skip
    assert "100." in good(directory, "device", "list")

    assert "may log in again" in good(directory, "device", "enable", "client")
    assert "is disabled" in good(directory, "device", "disable", "client")
    await served.next(gateway.RejectAccess)
    await served.stop()
    assert rows(directory, "device")[0]["state"] == "disabled"
    assert program.stop() == 0
    assert not (directory / "policy.db.sock").exists()

    assert rows(directory, "device")[0]["state"] == "disabled"
    good(directory, "device", "enable", listed[0]["id"][:8])
    good(directory, "device", "remove", "gateway")
    assert [(row["name"], row["state"]) for row in rows(directory, "device")] == [("client", "offline")]
    program = start()
    await program.until("listening")
    again = Device(port, "client", token(directory, "client"), 1)
    devices.append(again)
    assert (await again.next(client.Init)).interface.ipv4 == seen.interface.ipv4
    unknown = at(directory, "device", "disable", "nobody")
    assert unknown.stderr == "Error: There is no device 'nobody' (known: 'client').\n"


async def test_a_portal_that_was_killed_leaves_no_socket_in_the_way(start: Callable[..., Program]) -> None:
    program = start()
    await program.until("listening")
    path = program.directory / "policy.db.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    program.process.kill()
    program.process.wait(DEADLINE_S)
    assert path.exists()
    assert rows(program.directory, "device") == []
    again = start()
    await again.until("listening", 2)
    assert rows(program.directory, "device") == []


def test_a_token_that_is_added_is_listed_and_ends(directory: Path) -> None:
    out = directory / "phone.token"
    said = good(directory, "token", "add", "client", "--for", "me", "--out", str(out), "--expires", "2040-01-01T00:00:00Z")
    assert out.read_text().strip() not in said + (directory / "policy.toml").read_text()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert rows(directory, "token")[-1] == {
        "name": "phone", "kind": "client", "for": "me", "state": "on", "expires": "2040-01-01 00:00:00+00:00",
    }  # fmt: skip
    good(directory, "token", "revoke", "phone")
    assert rows(directory, "token")[-1]["state"] == "revoked"
    good(directory, "token", "enable", "phone")
    assert "4 tokens" not in at(directory, "--check").stdout
    assert "3 tokens" in at(directory, "--check").stdout
    good(directory, "token", "remove", "phone")
    assert "2 tokens" in at(directory, "--check").stdout


@pytest.mark.parametrize("kind", ["site", "user", "group", "resource", "policy", "token", "device"])
def test_help_of_every_kind_teaches(kind: str) -> None:
    shown = run(kind, "--help").stdout
    for word in ("list", "remove", *(() if kind == "group" else ("disable", "enable")), *(() if kind == "device" else ("add",))):
        assert word in shown
    for command in ("list", "remove"):
        assert "--config" in run(kind, command, "--help").stdout
