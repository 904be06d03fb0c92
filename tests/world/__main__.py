"""`./dev soak`: walks through the world for as long as you like."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import click
import structlog

from tests.world import replay
from tests.world.walk import Walk

STEPS_PER_WORLD = 400
"""Steps before the next world, with the next seed: worlds differ in what no step changes."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--steps", type=click.IntRange(1), default=100_000, show_default=True, help="Steps in all.")
@click.option("--seed", type=int, default=1, show_default=True, help="The first world; the same seed gives the same walk.")
@click.option(
    "--replay", "file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Walk the steps of a file instead."
)
@click.option(
    "--failures",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder for files of failures. [default: here]",
)
@click.option("--no-shrink", is_flag=True, help="Write a failure as it was found.")
def main(steps: int, seed: int, file: Path | None, failures: Path, no_shrink: bool) -> None:
    """Walks whole clients, gateways, relays and a portal through random events, beside a model of what must come of it.

    A failure is made shorter, written to a file that `--replay` walks again, and ends the soak with status 1.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if file is not None:
        _replay(file)
        return
    started, done = time.monotonic(), 0
    with click.progressbar(length=steps, label=f"seed {seed}", file=sys.stderr, item_show_func=lambda item: item) as bar:
        while done < steps:
            bar.label = f"seed {seed}"
            failure, walked = _walk(seed, min(STEPS_PER_WORLD, steps - done))
            done += walked
            bar.update(walked, f"{done / (time.monotonic() - started):.0f} steps/s")
            if failure is not None:
                break
            seed += 1
    if failure is None:
        click.echo(f"{done} steps, no difference found, {done / (time.monotonic() - started):.0f} steps per second")
        return
    click.echo(f"seed {seed}, {len(failure.steps)} steps: {failure.error}")
    if not no_shrink:
        failure = replay.shrink(failure, lambda left: click.echo(f"\rshrinking: {left} steps ", nl=False, err=True))
        click.echo("", err=True)
    failures.mkdir(parents=True, exist_ok=True)
    path = failures / f"walk-{seed}.json"
    failure.write(path)
    raise click.ClickException(
        f"{failure.error}\n{len(failure.steps)} steps are in {path}; walk them by: ./dev soak --replay {path}"
    )


def _walk(seed: int, steps: int) -> tuple[replay.Failure | None, int]:
    walk = Walk(seed)
    try:
        for _ in range(steps):
            walk.apply(walk.propose())
    except Exception as error:
        return replay.Failure(seed, tuple(walk.steps), f"{type(error).__name__}: {error}"), len(walk.steps)
    return None, steps


def _replay(path: Path) -> None:
    try:
        seed, steps = replay.read(path)
    except (OSError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint="--replay") from error
    failure = replay.run(seed, steps)
    if failure is not None:
        raise click.ClickException(f"step {len(failure.steps)} of {len(steps)}: {failure.error}")
    click.echo(f"{len(steps)} steps, no difference found")


if __name__ == "__main__":
    main()
