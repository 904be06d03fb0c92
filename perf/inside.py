"""Into namespaces and back: every comparison runs itself once more in fresh namespaces that nothing outlives."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from firezone.lab import namespaces
from perf import tunnels
from perf.relay.build import BuildFailed, build

if TYPE_CHECKING:
    from perf.tunnels import Tunnel


def is_inside() -> bool:
    return namespaces.INSIDE in os.environ


def find(words: tuple[str, ...], *, is_newest_built: bool = True) -> list[Tunnel]:
    """Returns the contenders of this machine with these words. Raises BadParameter for a word that is in no name."""
    namespaces.complete_path()
    try:
        return tunnels.choose(tunnels.find(say, is_newest_built=is_newest_built), words)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--only") from error


def enter(module: str, found: list[Tunnel]) -> NoReturn:
    """Compiles the load generator and runs a module inside, with the arguments of this process."""
    if (missing := namespaces.what_is_missing()) is not None:
        raise click.ClickException(missing)
    try:
        build()
    except BuildFailed as error:
        raise click.ClickException(str(error)) from error
    namespaces.enter(sys.argv[1:], module, tunnels.hand_over(found), Path(tempfile.mkdtemp(prefix="firezone-perf-")))


def begin() -> Path:
    """Makes sure that we end with the outer process, and returns the directory for logs.

    This mount namespace gets a /run of its own: wireguard-go leaves its control socket there when it is killed.
    """
    namespaces.end_without_lifeline()
    namespaces.complete_path()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)
    return Path(os.environ[namespaces.SCRATCH])


def say(line: str) -> None:
    click.echo(line, err=True)
