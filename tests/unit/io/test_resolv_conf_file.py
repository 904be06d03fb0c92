"""resolv.conf taken over and given back in a directory of its own, killed between any two system calls."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.io import resolv_conf_file
from firezone.io.resolv_conf_file import FIRST_LINE, LAST_LINE, Owner, ResolvConfError, ResolvConfFile, nameservers, parse

if TYPE_CHECKING:
    from collections.abc import Callable

SENTINELS = ["100.100.111.1", "fd00:2021:1111:8000:100:100:111:0"]
SHORT = b"nameserver 192.0.2.53\n"
LONG = SHORT + b"".join(b"# line %d of a long file\n" % number for number in range(600))
NO_NEWLINE = b"search a.example b.example\nnameserver 192.0.2.53\noptions timeout:1 ndots:3\nnameserver 2001:db8::53"
ORIGINALS = {"empty": b"", "short": SHORT, "no newline": NO_NEWLINE, "longer than two pages": LONG}
SYSTEM_CALLS = ("open", "pwrite", "ftruncate", "fsync", "fchmod", "close", "unlink", "rename")


@pytest.fixture(params=list(ORIGINALS.values()), ids=list(ORIGINALS))
def original(request: pytest.FixtureRequest) -> bytes:
    text: bytes = request.param
    return text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    path = tmp_path / "etc" / "resolv.conf"
    path.write_bytes(SHORT)
    return path


def listing(path: Path) -> dict[str, bytes]:
    """Everything in the directory: what is left behind shows."""
    return {entry.name: entry.read_bytes() for entry in path.parent.iterdir()}


# taken over and given back


def test_the_original_comes_back_byte_for_byte_and_nothing_is_left(path: Path, original: bytes) -> None:
    path.write_bytes(original)
    path.chmod(0o640)
    before = path.stat()
    file = ResolvConfFile(path)
    file.take_over(SENTINELS, "corp.example")
    assert path.read_bytes() != original
    assert file.backup.read_bytes() == original
    assert file.backup.stat().st_mode == before.st_mode
    assert file.give_back()
    assert listing(path) == {"resolv.conf": original}
    assert (path.stat().st_ino, path.stat().st_mode) == (before.st_ino, before.st_mode)


def test_our_text_names_the_sentinels_and_keeps_the_other_options(path: Path) -> None:
    path.write_bytes(
        b"domain old.example\nsearch a b\nsortlist 10.0.0.0\noptions timeout:1 ndots:5 edns0\nnameserver 192.0.2.53 # mine\n"
    )
    ResolvConfFile(path).take_over(SENTINELS, "corp.example")
    text = path.read_text()
    assert text.startswith(FIRST_LINE + "\n")
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        "nameserver 100.100.111.1", "nameserver fd00:2021:1111:8000:100:100:111:0", "search corp.example", "sortlist 10.0.0.0",
        "options timeout:1", "options edns0", "options ndots:1",
    ]  # fmt: skip


def test_without_a_search_domain_none_is_kept(path: Path) -> None:
    path.write_bytes(NO_NEWLINE)
    ResolvConfFile(path).take_over(SENTINELS, None)
    assert not parse(path.read_text()).search


def test_taking_over_again_keeps_the_first_original(path: Path) -> None:
    file = ResolvConfFile(path)
    file.take_over(SENTINELS, "a-long-search-domain.example")
    file.take_over(SENTINELS[:1], None)
    assert parse(path.read_text()).nameservers == SENTINELS[:1]
    assert path.read_text().count(LAST_LINE) == 1
    assert file.give_back()
    assert listing(path) == {"resolv.conf": SHORT}


def test_a_text_that_others_wrote_meanwhile_stays(path: Path) -> None:
    file = ResolvConfFile(path)
    file.take_over(SENTINELS, None)
    path.write_bytes(b"nameserver 198.51.100.53\n")
    assert not file.give_back()
    assert listing(path) == {"resolv.conf": b"nameserver 198.51.100.53\n"}


def test_the_originals_leftover_backup_does_not_overwrite_an_edit(path: Path) -> None:
    """It keeps its backup and copies it over whatever stands there at its next start; we do not."""
    file = ResolvConfFile(path)
    file.backup.write_bytes(b"nameserver 203.0.113.53\n")
    assert not ResolvConfFile(path).give_back()
    assert path.read_bytes() == SHORT
    assert file.system_resolvers() == ["192.0.2.53"]


def test_the_crash_of_the_original_is_recovered(path: Path) -> None:
    path.write_text(f"{FIRST_LINE}\n# its comment\nnameserver 100.100.111.1\noptions ndots:1\n")
    ResolvConfFile(path).backup.write_bytes(SHORT)
    assert ResolvConfFile(path).give_back()
    assert path.read_bytes() == SHORT


def test_a_client_that_runs_is_not_robbed(path: Path) -> None:
    running = ResolvConfFile(path)
    running.take_over(SENTINELS, None)
    other = ResolvConfFile(path)
    with pytest.raises(ResolvConfError, match="controlled by a Firezone client that is running"):
        other.give_back()
    with pytest.raises(ResolvConfError, match="controlled by another Firezone client that is running"):
        other.take_over(["192.0.2.1"], None)
    assert parse(path.read_text()).nameservers == SENTINELS
    assert running.give_back()
    assert listing(path) == {"resolv.conf": SHORT}


# resolvers


def test_resolvers_are_the_originals_while_we_hold_the_file(path: Path) -> None:
    path.write_bytes(b"nameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver 2001:db8::53\n")
    file = ResolvConfFile(path)
    assert file.system_resolvers() == ["192.0.2.53", "2001:db8::53"]
    file.take_over(SENTINELS, None)
    assert file.system_resolvers() == ResolvConfFile(path).system_resolvers() == ["192.0.2.53", "2001:db8::53"]


def test_a_file_that_is_none_has_no_resolvers(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")
    assert ResolvConfFile(path).system_resolvers() == []
    path.write_bytes(b"nameserver 192.0.2.53\nnameserver dns.example\n")
    assert ResolvConfFile(path).system_resolvers() == []
    path.unlink()
    assert ResolvConfFile(path).system_resolvers() == []


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    nameservers(text)


@given(st.lists(st.ip_addresses().map(str)), st.lists(st.sampled_from(["edns0", "rotate", "ndots:2"]), unique=True))
def test_what_is_rendered_is_read_the_same(servers: list[str], options: list[str]) -> None:
    config = resolv_conf_file.ResolverConfig(nameservers=servers, search=["a.example"], options=options)
    assert parse(config.render()) == config


# refused


@pytest.mark.parametrize("text", [b"nonsense here\n", b"nameserver\n", b"nameserver dns.example\n", b"\xff\n"])
def test_an_invalid_file_is_left_as_it_is(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    for act in (ResolvConfFile(path).check, lambda: ResolvConfFile(path).take_over(SENTINELS, None)):
        with pytest.raises(ResolvConfError, match="Correct"):
            act()
    assert listing(path) == {"resolv.conf": text}


def test_a_link_is_left_to_whoever_made_it(path: Path) -> None:
    path.unlink()
    path.symlink_to("../run/systemd/resolve/stub-resolv.conf")
    file = ResolvConfFile(path)
    for act in (file.check, lambda: file.take_over(SENTINELS, None)):
        with pytest.raises(ResolvConfError, match=r"is a link to \.\./run/systemd/resolve/stub-resolv\.conf.*systemd-resolved"):
            act()
    assert not file.give_back()
    assert os.readlink(path) == "../run/systemd/resolve/stub-resolv.conf"
    assert [entry.name for entry in path.parent.iterdir()] == ["resolv.conf"]


def test_a_missing_file_or_backup_is_told(path: Path) -> None:
    path.write_text(f"{FIRST_LINE}\nnameserver 100.100.111.1\n")
    with pytest.raises(ResolvConfError, match=r"its backup .* is gone"):
        ResolvConfFile(path).give_back()
    path.unlink()
    with pytest.raises(ResolvConfError, match="is not a file"):
        ResolvConfFile(path).take_over(SENTINELS, None)
    assert listing(path) == {}


def test_a_full_disk_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(ResolvConfError, match=r"No space left on device\. Make room"):
        ResolvConfFile(path).take_over(SENTINELS, None)
    monkeypatch.undo()
    assert not ResolvConfFile(path).give_back()
    assert listing(path) == {"resolv.conf": SHORT}


# killed


@pytest.mark.parametrize("servers", [["100.100.111.1"], [f"fd00:2021::{number:x}" for number in range(400)]], ids=["one", "pages"])
def test_killed_between_any_two_calls_the_original_comes_back(path: Path, original: bytes, servers: list[str]) -> None:
    """Taken over, changed and given back by a process that is killed before its n-th system call, for every n."""

    def life(file: ResolvConfFile) -> None:
        file.take_over(servers, "corp.example")
        file.take_over([*servers, "100.100.111.2"], None)
        file.give_back()

    deaths = 0
    while True:
        path.write_bytes(original)
        path.chmod(0o640)
        if not is_killed(lambda: life(ResolvConfFile(path)), after=deaths):
            break
        deaths += 1
        ResolvConfFile(path).give_back()
        if deaths % 3 == 0:
            ResolvConfFile(path).give_back()  # Twice is as good as once.
        assert path.read_bytes() == original, f"killed before call {deaths}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert set(listing(path)) == {"resolv.conf"}
    assert deaths > 25
    assert listing(path) == {"resolv.conf": original}


def test_killed_while_recovering_the_next_recovery_ends_it(path: Path, original: bytes) -> None:
    for death in range(40):
        path.write_bytes(original)
        is_killed(lambda: ResolvConfFile(path).take_over(SENTINELS, None), after=1000)
        is_dead = is_killed(lambda: ResolvConfFile(path).give_back(), after=death)
        ResolvConfFile(path).give_back()
        assert listing(path) == {"resolv.conf": original}, f"killed before call {death}"
        if not is_dead:
            return
    pytest.fail("recovery makes more system calls than expected")


@pytest.mark.parametrize("pages", [1, 2, 3])
def test_a_write_that_stops_between_pages_is_recognised(path: Path, pages: int) -> None:
    """What Linux can leave of a write that a SIGKILL cuts short: whole pages of the new text over the old."""
    ours = f"{FIRST_LINE}\n{'nameserver fd00:2021::1' * 700}\n{LAST_LINE}\n".encode()
    cut = pages * 4096
    for over in (ours, ours[:1000]):
        path.write_bytes(LONG[:cut] + over[cut:])
        ResolvConfFile(path).backup.write_bytes(LONG)
        assert ResolvConfFile(path).find() is Owner.OURS
        ResolvConfFile(path).give_back()
        assert listing(path) == {"resolv.conf": LONG}


def is_killed(act: Callable[[], Any], *, after: int) -> bool:
    """Runs something in a process that gets a SIGKILL before a system call, once it has made so many. False: it ended before."""
    child = os.fork()
    if child == 0:
        _count_down(after)
        act()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def _count_down(left: int) -> None:
    remaining = [left]

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            if remaining[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            remaining[0] -= 1
            return call(*arguments, **keywords)

        return counted

    for name in SYSTEM_CALLS:
        setattr(os, name, wrap(getattr(os, name)))
