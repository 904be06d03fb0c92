"""Flame graphs: folded stacks as an SVG that any browser shows.

Width is the share of samples, height the depth of the stack, callers below. Colours tell whose code it is. Frames too narrow to be
seen are left out, which keeps a picture of a hundred thousand samples below 300 KiB; hovering tells names and shares.

By hand: perf script --no-inline | python -m perf.flame > profile.svg
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

from perf.stacks import fold, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from perf.stacks import Stacks

WIDTH, ROW, MARGIN, TEXT_WIDTH = 1600, 17, 10, 6.7
MIN_SHARE = 0.0012
"""Of all samples, below which a frame is not drawn: two pixels."""
_COLOURS = {
    "kernel": ("#e8a33d", "the kernel"),
    "ours": ("#3d9be8", "this package's C and Cython"),
    "python": ("#6fc06f", "Python, by name"),
    "interpreter": ("#a8d8a8", "the interpreter"),
    "other": ("#c9c9c9", "libraries"),
}


@dataclass(slots=True)
class _Node:
    samples: int = 0
    callees: dict[str, _Node] = field(default_factory=dict)


def to_svg(stacks: Stacks, title: str) -> str:
    """Draws a flame graph. Raises ValueError when there is nothing to draw."""
    root = _Node()
    for stack, count in stacks.items():
        node = root
        node.samples += count
        for frame in stack:
            node = node.callees.setdefault(frame, _Node())
            node.samples += count
    if not root.samples:
        raise ValueError("There are no samples to draw.")
    boxes = list(_boxes(root, root.samples * MIN_SHARE, 0, 0))
    height = (max((depth for _, _, depth, _ in boxes), default=0) + 4) * ROW + 2 * MARGIN
    scale = (WIDTH - 2 * MARGIN) / root.samples
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="DejaVu Sans Mono,Menlo,Consolas,monospace" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{MARGIN}" y="{MARGIN + 12}" font-size="14">{escape(title)}, {root.samples} samples</text>',
        *_legend(),
    ]
    for name, start, depth, samples in boxes:
        x, y, width = MARGIN + start * scale, height - MARGIN - (depth + 1) * ROW, samples * scale
        fill = "#d98ad9" if depth == 0 else _COLOURS[kind_of(name)][0]
        letters = int((width - 4) / TEXT_WIDTH)
        shown = name if len(name) <= letters else name[: letters - 1] + "…" if letters > 2 else ""
        parts.append(
            f'<g><title>{escape(name)}: {100 * samples / root.samples:.2f} %</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" '
            f'height="{ROW - 1}" fill="{fill}" rx="1"/>'
            + (f'<text x="{x + 2:.1f}" y="{y + 12}">{escape(shown)}</text>' if shown else "") + "</g>"
        )  # fmt: skip
    return "\n".join([*parts, "</svg>\n"])


def _boxes(node: _Node, least: float, start: int, depth: int) -> Iterator[tuple[str, int, int, int]]:
    """Yields name, first sample, depth and samples of every frame that is wide enough, callees by name."""
    for name, callee in sorted(node.callees.items()):
        if callee.samples >= least:
            yield name, start, depth, callee.samples
            yield from _boxes(callee, least, start, depth + 1)
        start += callee.samples


def _legend() -> Iterator[str]:
    x = MARGIN
    for colour, text in (("#d98ad9", "a thread"), *_COLOURS.values()):
        yield f'<rect x="{x}" y="{MARGIN + 20}" width="12" height="12" fill="{colour}"/>'
        yield f'<text x="{x + 16}" y="{MARGIN + 30}">{text}</text>'
        x += 40 + int(len(text) * TEXT_WIDTH)


if __name__ == "__main__":
    found = fold(sys.stdin)
    sys.exit("This is not what perf script prints.") if not found else print(to_svg(found, "profile"), end="")
