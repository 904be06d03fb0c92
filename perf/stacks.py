"""Folded stacks: what `perf script` prints, counted by stack, each frame with a name that a reader of the source knows."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Stack = tuple[str, ...]
"""Frames, outermost first; the first is the thread's name."""
Stacks = Counter[Stack]
"""Samples by stack."""

NAMELESS = "[unknown]"
"""Frames of code without frame pointers or symbols; several in a row are drawn as one."""

_SAMPLE = re.compile(r"^(?P<comm>\S.*?)\s+\d+(?:/\d+)?\s+(?:\[\d+\]\s+)?\d+\.\d+:")
_FRAME = re.compile(r"^\s+[0-9a-f]+ (?P<symbol>.+) \((?P<object>.*)\)$")
_OFFSET = re.compile(r"\+0x[0-9a-f]+$")
_SUFFIX = {"kernel": "_[k]", "ours": "_[f]", "interpreter": "_[i]"}
"""Marks in frames' names, as flame graphs usually have them: folded stacks stay plain text."""
_KINDS = {suffix: kind for kind, suffix in _SUFFIX.items()}


def fold(lines: Iterable[str]) -> Stacks:
    """Counts the stacks of what `perf script` prints. Lines that it does not print otherwise are skipped."""
    stacks: Stacks = Counter()
    comm, frames = "", list[str]()
    for line in lines:
        if sample := _SAMPLE.match(line):
            comm, frames = sample["comm"], []
        elif comm and (frame := _FRAME.match(line)):
            name = _name(frame["symbol"], frame["object"])
            if not frames or name != frames[-1] or name != NAMELESS:
                frames.append(name)
        elif comm and not line.strip():
            stacks[(comm, *_readable(frames))] += 1
            comm = ""
    if comm:
        stacks[(comm, *_readable(frames))] += 1
    return stacks


def folded_text(stacks: Stacks) -> str:
    """Returns them in the form that flame graph tools read: `thread;caller;callee count`."""
    return "".join(f"{';'.join(frame.replace(';', ':') for frame in stack)} {count}\n" for stack, count in sorted(stacks.items()))


def top(stacks: Stacks, most: int = 20) -> list[tuple[str, float]]:
    """Returns the functions in which most samples were taken, with their shares in percent; what they call is not in it."""
    own: Counter[str] = Counter()
    for stack, count in stacks.items():
        own[stack[-1]] += count
    return [(name, 100 * count / stacks.total()) for name, count in own.most_common(most)]


def kind_of(frame: str) -> str:
    """Says whose code a frame is: a key of the colours."""
    return "python" if frame.startswith("py::") else _KINDS.get(frame[-4:], "other")


def _readable(frames: list[str]) -> list[str]:
    """Returns frames outermost first. Where Python's have names, those of the interpreter that carry out calls are left out."""
    if any(kind_of(frame) == "python" for frame in frames):
        frames = [frame for place, frame in enumerate(frames) if place == 0 or kind_of(frame) != "interpreter"]
    return frames[::-1]


def _name(symbol: str, module: str) -> str:
    symbol, file = _OFFSET.sub("", symbol), module.rpartition("/")[2]
    if symbol == "[unknown]":
        return f"[{file.strip('[]')}]"
    if symbol.startswith("py::"):
        function, _, path = symbol.rpartition(":")
        return f"{function}:{path.rpartition('/')[2]}"
    if module.startswith("[") and not module.startswith("[v"):
        return symbol + _SUFFIX["kernel"]
    if "/firezone/" in module and file.endswith(".so"):
        return _own_name(symbol, file.partition(".")[0]) + _SUFFIX["ours"]
    return symbol + _SUFFIX["interpreter"] if re.match(r"(lib)?python3", file) else symbol


def _own_name(symbol: str, module: str) -> str:
    """Returns `module.Class.method` for what Cython has made of one, and a static C function's name with its module."""
    scopes, rest = [], re.sub(r"^__pyx_[a-z]+_", "", symbol)
    if rest == symbol:
        return symbol if symbol.startswith("fz_") else f"{module}.{symbol}"
    while (size := re.match(r"(\d+)", rest)) and (end := size.end() + int(size[1])) < len(rest) and rest[end] == "_":
        scopes.append(rest[size.end() : end])
        rest = rest[end + 1 :]
    return ".".join([*scopes[2:], re.sub(r"^\d+", "", rest)])
