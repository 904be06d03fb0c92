"""Programs of others that we compare and test with: where they are, and how the newest wireguard-go is built."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

NEWEST_WIREGUARD_GO = "golang.zx2c4.com/wireguard@v0.0.0-20250521234502-f333402bd9cb"
"""The commit of release 0.0.20250522, by its pseudo-version: the module proxy serves no tag of it."""
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "firezone-interop"
BORINGTUN = "boringtun", "0.7.1"
MAY_BUILD_LONG = "CI" in os.environ or os.environ.get("FIREZONE_INTEROP_BUILD") == "1"
"""Whether a test run may spend a minute on building a program."""

_BUILD_TIMEOUT_S = 300.0
_NOT_FETCHED = ("reading https://", "dial tcp", "lookup ", "failed to download", "could not find", "Could not resolve")


class NotAvailable(Exception):
    """A program cannot be had on this machine; the message says why."""


class BuildFailed(Exception):
    """A program could be had and did not build; the message is the compiler's."""


def wireguard(name: str) -> Path:
    """Returns a user-space WireGuard that `wg` can configure.

    `debian` is the package's wireguard-go, `newest` is wireguard-go built from its Go module, `boringtun` the implementation
    that the original programs descend from. What is built is built once and kept in the cache.

    Raises: NotAvailable when it cannot be had here, BuildFailed when it can and does not build.
    """
    found = _find(name)
    if isinstance(found, Path):
        return found
    raise found


@functools.cache
def _find(name: str) -> Path | NotAvailable | BuildFailed:
    """Tries once per run: the answer of a registry does not change with the next test."""
    find = {"debian": _debian_wireguard_go, "newest": _newest_wireguard_go, "boringtun": _boringtun}[name]
    try:
        return find()
    except (NotAvailable, BuildFailed) as error:
        return error


def _debian_wireguard_go() -> Path:
    if (found := shutil.which("wireguard-go")) is None:
        raise NotAvailable("wireguard-go is not installed: apt-get install wireguard-go")
    return Path(found)


def _newest_wireguard_go() -> Path:
    program = CACHE / NEWEST_WIREGUARD_GO.partition("@")[2] / "wireguard"
    if program.exists():
        return program
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise NotAvailable(f"machine lacks Go to build {NEWEST_WIREGUARD_GO} with.")
    program.parent.mkdir(parents=True, exist_ok=True)
    environment = {"GOBIN": str(program.parent), "GOFLAGS": "-mod=mod"}
    _build([go, "install", NEWEST_WIREGUARD_GO], environment, program.parent, NEWEST_WIREGUARD_GO)
    return program


def _boringtun() -> Path:
    if found := shutil.which("boringtun-cli"):
        return Path(found)
    root = CACHE / "-".join(BORINGTUN)
    program = root / "bin" / "boringtun-cli"
    if program.exists():
        return program
    if not MAY_BUILD_LONG:
        raise NotAvailable("boringtun takes a minute to build: set FIREZONE_INTEROP_BUILD=1 once.")
    cargo = shutil.which("cargo") or shutil.which("cargo", path=str(Path.home() / ".cargo" / "bin"))
    if cargo is None:
        raise NotAvailable("machine lacks cargo to build boringtun with")
    root.mkdir(parents=True, exist_ok=True)
    name, version = BORINGTUN
    command = [cargo, "install", "--locked", "--root", str(root), "--version", version, f"{name}-cli"]
    _build(command, {"CARGO_TARGET_DIR": str(root / "target")}, root, f"{name} {version}")
    shutil.rmtree(root / "target", ignore_errors=True)
    return program


def _build(command: list[str], environment: dict[str, str], directory: Path, what: str) -> None:
    try:
        built = subprocess.run(
            command,
            env={**os.environ, **environment},
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=_BUILD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NotAvailable(f"machine lacks the speed: {what} was not built within {_BUILD_TIMEOUT_S:.0f} s.") from error
    if built.returncode == 0:
        return
    # A registry that does not serve a module is the machine's matter; code that was fetched and does not compile is not.
    if any(sign in built.stderr for sign in _NOT_FETCHED):
        raise NotAvailable(f"machine lacks a registry that serves {what}: {built.stderr.strip().splitlines()[0]}")
    raise BuildFailed(built.stderr)
