"""Where the token comes from, and which files are trusted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from firezone.base import log as logs
from firezone.base.errors import ConfigError
from firezone.cli.token import find_token, take_environment_token

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for files that belong to root")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_concealed", {})
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.delenv("FIREZONE_TOKEN", raising=False)


def make(path: Path, content: bytes = b"secret", mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_the_variable_is_taken_out_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIREZONE_TOKEN", "abc")
    assert take_environment_token() == "abc"
    assert "FIREZONE_TOKEN" not in os.environ
    assert take_environment_token() is None


def test_no_token_names_both_places(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither \$FIREZONE_TOKEN nor .*/absent has one"):
        find_token(None, tmp_path / "absent")


def test_a_token_of_white_space_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no token"):
        find_token(" \n", tmp_path / "absent")


def test_a_given_token_wins_and_the_file_is_not_looked_at(tmp_path: Path) -> None:
    make(tmp_path / "token", mode=0o644)
    assert find_token("abc\n", tmp_path / "token").reveal() == "abc"


def test_the_token_is_concealed_from_every_log(tmp_path: Path) -> None:
    find_token("abc", tmp_path / "absent")
    assert logs.without_secrets("?token=abc") == "?token=***"


def test_a_credential_of_the_service_manager_comes_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    make(tmp_path / "FIREZONE_TOKEN", b" from systemd \n", 0o440)
    assert find_token(None, tmp_path / "absent").reveal() == "from systemd"
    assert find_token("given", tmp_path / "absent").reveal() == "given"


@NEEDS_ROOT
@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_of_root_alone_is_read_and_trimmed(tmp_path: Path, mode: int) -> None:
    path = make(tmp_path / "token", b"\n secret\t\n", mode)
    assert find_token(None, path).reveal() == "secret"


@NEEDS_ROOT
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o700, 0o644])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = make(tmp_path / "token", mode=mode)
    with pytest.raises(ConfigError, match=f"{path} has mode 0o{mode:o}; it must be 0o400 or 0o600"):
        find_token(None, path)


@NEEDS_ROOT
@pytest.mark.parametrize(("uid", "gid", "who"), [(1, 0, "root user"), (0, 1, "root group")])
def test_a_file_of_somebody_else_is_refused(tmp_path: Path, uid: int, gid: int, who: str) -> None:
    path = make(tmp_path / "token")
    os.chown(path, uid, gid)
    with pytest.raises(ConfigError, match=f"{path} must belong to the {who}"):
        find_token(None, path)


@NEEDS_ROOT
def test_a_link_is_judged_by_its_target(tmp_path: Path) -> None:
    make(tmp_path / "target")
    (tmp_path / "token").symlink_to(tmp_path / "target")
    assert find_token(None, tmp_path / "token").reveal() == "secret"


@NEEDS_ROOT
def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not UTF-8"):
        find_token(None, make(tmp_path / "token", b"\xff\xfe"))


@NEEDS_ROOT
@pytest.mark.parametrize("content", [b"", b" \n"])
def test_an_empty_file_is_no_token(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match="no token"):
        find_token(None, make(tmp_path / "token", content))


@NEEDS_ROOT
def test_a_directory_is_no_token(tmp_path: Path) -> None:
    tmp_path.chmod(0o600)
    with pytest.raises(ConfigError, match="no token"):
        find_token(None, tmp_path)
