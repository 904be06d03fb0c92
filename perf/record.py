"""`./dev perf record`: a profile of the programs under load, as Firefox Profiler opens it and as a flame graph.

The lab of the demo runs a TCP transfer, and `perf record` samples the chosen programs meanwhile. What a machine must allow is tried
before anything starts.

Python's own functions have names where the interpreter writes them for perf. `-X perf` (3.12 and newer) costs nothing more, but
stacks go through the interpreter, which must have been built with frame pointers; many are not. `-X perf_jit` (3.13 and newer) and
unwinding by DWARF work with any, at a tenth of the samples, as every one of them copies a piece of the stack.
"""

from __future__ import annotations

import contextlib
import datetime
import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from firezone.base.errors import FirezoneError
from firezone.cli.types import OutputFile, Seconds
from firezone.lab import namespaces
from perf.flame import to_svg
from perf.stacks import Stacks, fold, folded_text, top

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firezone.lab.programs import Program
    from firezone.lab.stack import Stack

FREQUENCY = 10_000
"""Samples per second and core. A tick takes some 100 us, so that one in a tick is the least that shows its stages."""
WHO = ("client", "gateway", "relay")
PYTHON_FREQUENCY = 997
"""The same with the interpreter's frames by DWARF: every sample copies STACK_SIZE bytes, 32 MB a second for two programs."""
STACK_SIZE = 16_384
"""Vectors of sixteen lanes take half of it; what does not fit loses its callers."""
POINTERS = "-fno-omit-frame-pointer"
TRACES = re.compile(r"perf-(\d+)\.map|jit-(\d+)\.dump|jitted-(\d+)-\d+\.so")
"""What interpreters and perf leave in /tmp, wherever else they are told to, and the process that it is about."""
LATENESS_S = 30.0
"""How long perf may take to write what it has."""
EPILOG = """\b
Examples:
  ./dev perf record                           client and gateway, five seconds, up and down
  ./dev perf record --who gateway --load down --seconds 20
  ./dev perf record --relayed --who relay
  PYTHON=python3.13 ./dev perf record --frames python   with the interpreter's functions by name
\b
In the directory that it names: NAME.perf.gz opens in https://profiler.firefox.com (it stays on this machine), NAME.folded is
for other tools, NAME.counters.json is the program's own snapshot, profile.svg the flame graph. docs/profiling.md tells how to
read them and how to do the same by hand with a program in service."""


class CannotRecord(FirezoneError):
    """This machine does not let us."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What one is asked for."""

    who: tuple[str, ...]
    seconds: float
    frequency: int
    is_python: bool
    """Whether stacks show the interpreter's functions, whatever that costs."""
    load: str
    """up, down or both: half of the time each."""
    is_relayed: bool
    out: Path
    svg: Path


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--seconds", type=Seconds(1, 600), default=5.0, show_default=True, help="How long to record.")
@click.option("--who", type=click.Choice(WHO), multiple=True, help="A program to record; repeatable. [default: client, gateway]")
@click.option("--load", type=click.Choice(["up", "down", "both"]), default="both", show_default=True,
              help="Which way the TCP transfer goes; both: half of the time each.")  # fmt: skip
@click.option("--relayed", is_flag=True, help="Block direct paths, so that all goes over a relay.")
@click.option("--frames", type=click.Choice(["native", "python"]), default="native", show_default=True,
              help="python: the interpreter's functions by name whatever way it was built; takes Python 3.13.")  # fmt: skip
@click.option("--freq", type=click.IntRange(1, 100_000), help=f"Samples per second. [default: {FREQUENCY}, of python frames "
              f"{PYTHON_FREQUENCY}]")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Directory. [default: perf/results/profile-TIME]")
@click.option("--svg", type=OutputFile(), help="Where to draw the flame graph. [default: profile.svg in the directory]")
def main(
    seconds: float, who: tuple[str, ...], load: str, relayed: bool, frames: str, freq: int | None, out: Path | None,
    svg: Path | None,
) -> None:  # fmt: skip
    """Records a profile of client and gateway under load with perf, and draws a flame graph of it."""
    if "relay" in who and not relayed:
        raise click.UsageError("Without --relayed no relay runs that could be recorded.")
    is_python = frames == "python"
    if is_python and sys.version_info < (3, 13):
        raise click.UsageError("--frames python takes Python 3.13 or newer, for example: PYTHON=python3.13 ./dev perf record.")
    freq = freq or (PYTHON_FREQUENCY if is_python else FREQUENCY)
    namespaces.complete_path()
    try:
        if namespaces.INSIDE not in os.environ:
            check_perf(freq)
            if (missing := namespaces.what_is_missing()) is not None:
                raise CannotRecord(missing)
            directory = _make_directory(out)
            arguments = [*sys.argv[1:], "--out", str(directory)]
            namespaces.enter(arguments, "perf.record", perf_support(is_python), Path(tempfile.mkdtemp(prefix="firezone-perf-")))
        assert out is not None
        namespaces.end_without_lifeline()
        recording = Recording(who or WHO[:2], seconds, freq, is_python, load, relayed, out, svg or out / "profile.svg")
        _tell(record(recording, Path(os.environ[namespaces.SCRATCH])), recording)
    except (FirezoneError, OSError) as error:
        raise click.ClickException(str(error)) from error


def check_perf(frequency: int, program: str = "perf") -> None:
    """Tries to record something. Raises CannotRecord, saying what would allow it."""
    if shutil.which(program) is None:
        raise CannotRecord("perf is not installed; sudo apt-get install linux-perf brings it, on Ubuntu linux-tools-generic.")
    with tempfile.TemporaryDirectory(prefix="firezone-perf-") as directory:
        command = [*perf_record(frequency, Path(directory, "try"), program=program), "--", "true"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotRecord(explain(done.stderr))


def perf_support(is_python: bool) -> dict[str, str]:
    """Returns the environment in which interpreters tell perf the names of their functions, if that is of use here."""
    if is_python:
        return {"PYTHON_PERF_JIT_SUPPORT": "1"}
    is_whole = POINTERS in (sysconfig.get_config_var("PY_CFLAGS") or "") + (sysconfig.get_config_var("CFLAGS") or "")
    return {"PYTHONPERFSUPPORT": "1"} if is_whole and sys.version_info >= (3, 12) else {}


def explain(words: str) -> str:
    """Returns in a sentence what perf means when it refuses."""
    if "max_sample_rate" in words or "Maximum frequency" in words:
        return (
            "The kernel does not take so many samples a second; sudo sysctl kernel.perf_event_max_sample_rate=100000 allows "
            "them, or give a lower --freq."
        )
    if "perf_event_paranoid" in words or "not permitted" in words.lower() or "permission" in words.lower():
        level = _sysctl("perf_event_paranoid")
        return (
            f"The kernel does not let this user record (kernel.perf_event_paranoid is {level}); run as root, or allow it: "
            "sudo sysctl kernel.perf_event_paranoid=1. In a container perf needs the capability CAP_PERFMON besides."
        )
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return f"perf does not work here: {' '.join(lines[:3]) or 'it gives no reason'}"


def perf_record(frequency: int, output: Path, *, is_python: bool = False, program: str = "perf") -> list[str]:
    """Returns the command line, up to whom to record. Nothing is left in the caches of the user's perf."""
    stacks = ["--call-graph", f"dwarf,{STACK_SIZE}", "--clockid", "mono"] if is_python else ["-g"]
    return [program, "record", "-q", *stacks, "--freq", str(frequency), "--no-buildid-cache", "-o", str(output)]


def record(recording: Recording, logs: Path) -> dict[str, Stacks]:
    """Runs the lab and returns the stacks by program; all files but the picture are written. Raises FirezoneError."""
    from firezone.lab.measure import start_iperf, throughput
    from firezone.lab.stack import Stack
    from firezone.lab.topology import RESOURCE_ADDRESS

    since = time.time()
    stack = Stack.start(logs, _say, is_relayed=recording.is_relayed)
    start_iperf(stack.topology.resource, logs)
    throughput(stack.topology.client, RESOURCE_ADDRESS, 1.0)
    programs = {name: getattr(stack, name) for name in recording.who}
    _say(f"recording {', '.join(programs)} for {recording.seconds:g} s")
    perfs = {name: _sample(recording, program, logs / f"{name}.data") for name, program in programs.items()}
    ways = ["up", "down"] if recording.load == "both" else [recording.load]
    for way in ways:
        moved = throughput(stack.topology.client, RESOURCE_ADDRESS, recording.seconds / len(ways), reverse=way == "down")
        _say(f"{way}: {moved['gbps']:.2f} Gbit/s, while perf was looking on")
    for name, perf in perfs.items():
        words = perf.communicate(timeout=recording.seconds + LATENESS_S)[1]
        if perf.returncode:
            raise CannotRecord(f"The {name} could not be recorded: {explain(words)}")
    _keep_counters(stack, programs, recording.out)
    _say("reading what perf has written")
    stacks = {name: _read(_named(recording, logs / f"{name}.data"), recording.out / name) for name in programs}
    stack.close()
    _remove_traces(since)
    shutil.rmtree(logs, ignore_errors=True)
    return stacks


def _sample(recording: Recording, program: Program, output: Path) -> subprocess.Popen[str]:
    command = [
        *perf_record(recording.frequency, output, is_python=recording.is_python),
        "-p",
        str(program.process.pid),
        "--",
        "sleep",
        str(recording.seconds),
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _keep_counters(stack: Stack, programs: dict[str, Program], out: Path) -> None:
    for name, program in programs.items():
        program.process.send_signal(signal.SIGUSR2)
        program.wait_for("counters written")
        shutil.copy(stack.logs / f"{name}.counters.json", out)


def _remove_traces(since: float) -> None:
    """Removes what the lab's interpreters have left: of processes with numbers as low as in this namespace, and not older."""
    highest = int(Path("/proc/sys/kernel/ns_last_pid").read_text())
    for path in Path("/tmp").iterdir():
        number = TRACES.fullmatch(path.name)
        if number and int(next(filter(None, number.groups()))) <= highest:
            with contextlib.suppress(OSError):
                if path.stat().st_mtime >= since:
                    path.unlink()


def _named(recording: Recording, data: Path) -> Path:
    """Has perf join what it has with what the interpreter wrote of its functions."""
    if not recording.is_python:
        return data
    joined = data.with_suffix(".joined")
    done = subprocess.run(
        ["perf", "inject", "--jit", "-i", str(data), "-o", str(joined)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CannotRecord(f"perf could not join the interpreter's functions: {explain(done.stderr)}")
    return joined


def _read(data: Path, base: Path) -> Stacks:
    """Keeps what `perf script` prints, compressed, and returns its stacks."""
    # Inlined functions would be looked up one address at a time, which takes minutes.
    command = ["perf", "script", "--no-inline", "-i", str(data)]
    with gzip.open(f"{base}.perf.gz", "wt", compresslevel=4) as kept, tempfile.TemporaryFile("w+") as words:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words, text=True, errors="replace") as script:
            assert script.stdout is not None
            # What the text consists of is read once: a minute of it is gigabytes.
            stacks = fold(_copied(script.stdout, kept))
        if script.returncode:
            words.seek(0)
            raise CannotRecord(explain(words.read()))
    Path(f"{base}.folded").write_text(folded_text(stacks))
    return stacks


def _copied(lines: Iterator[str], to: object) -> Iterator[str]:
    for line in lines:
        to.write(line)  # type: ignore[attr-defined]
        yield line


def _tell(found: dict[str, Stacks], recording: Recording) -> None:
    everything: Stacks = Stacks()
    for name, stacks in found.items():
        everything.update(stacks)
        click.echo(f"\n{name}: {stacks.total()} samples")
        for function, share in top(stacks, 12):
            click.echo(f"  {share:5.1f} %  {function}")
    if not everything:
        raise CannotRecord("perf took no samples; did the programs do anything?")
    ways = "up and down" if recording.load == "both" else recording.load
    recording.svg.write_text(to_svg(everything, f"{' and '.join(found)} under one TCP stream {ways}"), encoding="utf-8")
    click.echo(f"\nflame graph: {recording.svg}\nfor profiler.firefox.com: {recording.out}/NAME.perf.gz")


def _make_directory(out: Path | None) -> Path:
    path = out or Path(__file__).parent / "results" / f"profile-{datetime.datetime.now(datetime.UTC):%Y-%m-%d-%H%M%S}"
    path.mkdir(parents=True, exist_ok=True)
    return path.absolute()


def _sysctl(name: str) -> str:
    try:
        return Path("/proc/sys/kernel", name).read_text().strip()
    except OSError:
        return "unknown"


def _say(line: str) -> None:
    click.echo(f"· {line}", err=True)


if __name__ == "__main__":
    main()
