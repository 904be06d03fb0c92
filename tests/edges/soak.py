"""Plays worlds for as long as one likes: `./dev soak edges`."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from pathlib import Path

from tests.edges.replay import STEPS_PER_WORLD, Failure, load, play, shrink, steps_of

OK, FOUND, USAGE = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 nothing was found, 1 something was, 2 the arguments make no sense."""
    options = _read(arguments)
    if options.replay is not None:
        return _replay(options.replay)
    if options.steps < 1:
        print("--steps must be at least 1", file=sys.stderr)
        return USAGE
    failure = _play_all(options.steps, options.seed)
    if failure is None:
        return OK
    path: Path = options.output or Path(f"soak-{failure.seed}.json")
    failure.save(path)  # What is known is safe, whatever the shrinking does.
    print(f"\nworld {failure.seed}, step {len(failure.steps)}: {failure.what}", file=sys.stderr)
    if not options.no_shrink:
        shrunk = shrink(failure, on_try=lambda count: _line(f"shrinking: {count} steps"))
        shrunk.save(path)
        print(f"\nshrunk to {len(shrunk.steps)} steps: {shrunk.what}", file=sys.stderr)
    print(f"play it again: ./dev soak edges --replay {path}", file=sys.stderr)
    return FOUND


def _read(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./dev soak edges",
        description="Plays random worlds of whole clients, gateways, relays and a portal in memory and compares each step with a "
        "small model of what must happen. A failure is shrunk and written to a file.",
        epilog="Exit status: 0 nothing was found, 1 a failure was found or still happens, 2 wrong arguments.",
    )
    parser.add_argument("--steps", type=int, default=10_000, help="how many steps, about (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="where the worlds come from (default: %(default)s)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="play a saved failure and nothing else")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where a failure is saved (default: soak-SEED.json)")
    parser.add_argument("--no-shrink", action="store_true", help="save a failure as it was found")
    return parser.parse_args(arguments)


def _play_all(steps: int, seed: int) -> Failure | None:
    start, done = time.monotonic(), 0
    for number in itertools.count():
        world = seed * 1_000_000 + number
        failure = play(world, steps_of(world, min(STEPS_PER_WORLD, steps - done)))
        if failure is not None:
            return failure
        done = min(steps, done + STEPS_PER_WORLD)
        rate = done / max(time.monotonic() - start, 1e-9)
        filled = 30 * done // steps
        _line(
            f"[{'#' * filled}{'.' * (30 - filled)}] {done}/{steps} steps  {rate:.0f} steps/s  seed {seed}, world {world}  "
            f"{(steps - done) / rate:.0f} s left"
        )
        if done >= steps:
            sys.stderr.write("\n")
            return None
    raise AssertionError("worlds do not run out")


def _replay(path: Path) -> int:
    try:
        seed, steps = load(path)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return USAGE
    failure = play(seed, steps)
    if failure is None:
        print(f"{len(steps)} steps of world {seed}: nothing was found")
        return OK
    print("\n".join(failure.notes[-60:]))
    print(failure.trace)
    print(f"world {seed}, step {len(failure.steps)} of {len(steps)}: {failure.what}")
    return FOUND


def _line(text: str) -> None:
    """Writes a line over the former one; where nobody watches, a line each."""
    sys.stderr.write(f"\r\033[K{text}" if sys.stderr.isatty() else f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # Sets of text must have the same order in every run.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.edges.soak", *sys.argv[1:]])
    sys.exit(main())
