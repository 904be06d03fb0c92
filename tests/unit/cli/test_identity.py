"""The device's identity: made once, kept for ever, repaired but never replaced."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest

from firezone.base.errors import ConfigError
from firezone.cli.identity import device_name, load_device_id, smbios_value


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_start_makes_an_id_that_the_second_finds(tmp_path: Path) -> None:
    path = tmp_path / "state" / "config" / "firezone-id.json"
    first = load_device_id(path)
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert json.loads(path.read_text()) == {"id": first}
    assert (mode(path), mode(path.parent)) == (0o640, 0o770)
    assert load_device_id(path) == first
    assert [entry.name for entry in path.parent.iterdir()] == ["firezone-id.json"]


def test_two_devices_have_different_ids(tmp_path: Path) -> None:
    assert load_device_id(tmp_path / "a" / "id") != load_device_id(tmp_path / "b" / "id")


def test_modes_of_older_installations_are_repaired(tmp_path: Path) -> None:
    path = tmp_path / "config" / "id"
    path.parent.mkdir(mode=0o700)
    path.write_text('{"id":"mine","unknown":1}')
    path.chmod(0o600)
    assert load_device_id(path) == "mine"
    assert (mode(path), mode(path.parent)) == (0o640, 0o770)


def test_bare_text_is_an_id_and_json_text_never(tmp_path: Path) -> None:
    path = tmp_path / "id"
    path.write_text("4694E56C-7643-4A15-9DF3-638E5B05F570\n")
    assert load_device_id(path) == "4694E56C-7643-4A15-9DF3-638E5B05F570"


def test_an_empty_file_gets_an_id(tmp_path: Path) -> None:
    path = tmp_path / "config" / "id"
    path.parent.mkdir()
    path.write_text("\n")
    made = load_device_id(path)
    assert load_device_id(path) == made


@pytest.mark.parametrize("content", ["two words", "{", '{"name":"x"}', '{"id":5}', '{"id":""}', "[1]x y"])
def test_garbage_is_an_error_that_names_the_file_and_changes_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "id"
    path.write_text(content)
    with pytest.raises(ConfigError, match=str(path)):
        load_device_id(path)
    assert path.read_text() == content


def test_bytes_that_are_no_text_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "id"
    path.write_bytes(b"\xff\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_device_id(path)


def test_a_place_that_cannot_be_written_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="--firezone-id"):
        load_device_id(Path("/proc/no/such/place/id"))


def test_of_two_programs_at_once_the_first_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config" / "id"

    def lose(*_: object) -> None:
        path.write_text('{"id":"winner"}')
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr("os.link", lose)
    assert load_device_id(path) == "winner"


def test_a_file_system_without_hard_links_does_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    path = tmp_path / "config" / "id"
    made = load_device_id(path)
    assert load_device_id(path) == made


def test_the_name_is_as_given_else_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "laptop")
    assert device_name("desk") == "desk"
    assert device_name(None) == "laptop"
    monkeypatch.setattr("socket.gethostname", lambda: "")
    assert re.fullmatch(r"[0-9a-f-]{36}", device_name(None))


def test_a_machine_without_smbios_has_no_serial() -> None:
    assert smbios_value("no-such-value") is None
