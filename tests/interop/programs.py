"""Programs of others that the interoperability tests run: where they are, and how the newest wireguard-go is built."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

NEWEST_WIREGUARD_GO = "golang.zx2c4.com/wireguard@v0.0.20250522"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "firezone-interop"
_BUILD_TIMEOUT_S = 300.0


class NotAvailable(Exception):
    """A program cannot be had on this machine; the message says why."""


class BuildFailed(Exception):
    """A program could be had and did not build; the message is the compiler's."""


def wireguard_go(version: str) -> Path:
    """Returns the program: `debian` is the package's, `newest` is built once from its Go module and kept in the cache.

    Raises: NotAvailable when it cannot be had here, BuildFailed when it can and does not build.
    """
    if version == "newest":
        if isinstance(built := _build_newest(), Path):
            return built
        raise built
    if (found := shutil.which("wireguard-go")) is None:
        raise NotAvailable("wireguard-go is not installed: apt-get install wireguard-go")
    return Path(found)


@functools.cache
def _build_newest() -> Path | NotAvailable | BuildFailed:
    """Tries once per run: the answer of a registry does not change with the next test."""
    try:
        return _newest_wireguard_go()
    except (NotAvailable, BuildFailed) as error:
        return error


def _newest_wireguard_go() -> Path:
    program = CACHE / NEWEST_WIREGUARD_GO.partition("@")[2] / "wireguard"
    if program.exists():
        return program
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise NotAvailable(f"No Go here to build {NEWEST_WIREGUARD_GO} with.")
    program.parent.mkdir(parents=True, exist_ok=True)
    try:
        built = subprocess.run(
            [go, "install", NEWEST_WIREGUARD_GO],
            env={**os.environ, "GOBIN": str(program.parent), "GOFLAGS": "-mod=mod"},
            cwd=program.parent,
            capture_output=True,
            text=True,
            timeout=_BUILD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NotAvailable(f"{NEWEST_WIREGUARD_GO} was not fetched within {_BUILD_TIMEOUT_S:.0f} s.") from error
    if built.returncode == 0:
        return program
    # A registry that does not serve the module is the machine's matter; code that was fetched and does not compile is not.
    if "reading https://" in built.stderr or "dial tcp" in built.stderr or "lookup " in built.stderr:
        raise NotAvailable(f"{NEWEST_WIREGUARD_GO} cannot be fetched here: {built.stderr.strip().splitlines()[0]}")
    raise BuildFailed(built.stderr)
