"""The picture of a comparison: bars with their spread, and the limits drawn in as lines."""

from __future__ import annotations

import importlib.util
from itertools import cycle
from typing import TYPE_CHECKING, Any

from perf.figures import BY_KEY
from perf.tunnels import VETH

if TYPE_CHECKING:
    from pathlib import Path

    from perf.results import Result, Run

PANELS = (
    ("TCP, 1 stream, Gbit/s", ("up_gbps", "down_gbps")),
    ("TCP, 8 streams, Gbit/s", ("up8_gbps", "down8_gbps")),
    ("CPU seconds per GB, all processes", ("cpu_s_per_gb",)),
    ("RTT idle, ms", ("rtt_p50_ms", "rtt_p99_ms")),
    ("RTT under load, p99 ms", ("loaded_up_p99_ms", "loaded_down_p99_ms")),
    ("UDP 1200 B without loss, 1000/s", ("udp_up_kpps", "udp_down_kpps")),
    ("UDP 64 B per CPU second, 1000", ("small_up_per_cpu", "small_down_per_cpu")),
    ("System calls per GB, 1000", ("syscalls_per_gb",)),
    ("Context switches per GB, 1000", ("switches_per_gb",)),
    ("Resident memory of the client, MiB", ("client_mib",)),
)
"""Title and figures of each part."""
COLORS = ("tab:blue", "tab:orange")
_THIN = {"elinewidth": 0.8}
LINES = ("--", ":", "-.")
ROOM = 6
"""How far beyond the longest bar a limit is drawn, in lengths of that bar; one farther off is named beside it."""
MISSING = "matplotlib is not installed; pip install matplotlib (./dev installs it by itself) would allow the picture."


def can_draw() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def draw(run: Run, limits: list[Result], path: Path) -> None:
    """Draws what was measured into a file, in the format that its name ends with."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = [(title, keys) for title, keys in PANELS if any(one.values(key) for one in run.results for key in keys)]
    rows = max(1, -(-len(panels) // 2))
    bars = [result for result in run.results if result.name != VETH]
    veth = [result for result in run.results if result.name == VETH]
    figure, grid = plt.subplots(rows, 2, figsize=(15, rows * (0.9 + 0.34 * len(bars))), squeeze=False)
    for axis, (title, keys) in zip(grid.flat, panels, strict=False):
        _draw_panel(axis, title, keys, bars)
        _draw_limits(axis, keys, [*veth, *limits])
    for axis in list(grid.flat)[len(panels) :]:
        axis.axis("off")
    figure.suptitle(f"{run.machine.get('cpu', '')}, {run.machine.get('cores', '')} cores, {run.time[:10]}; {run.rounds} rounds")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_panel(axis: Any, title: str, keys: tuple[str, ...], results: list[Result]) -> None:
    height = 0.8 / len(keys)
    for number, key in enumerate(keys):
        places = [place + number * height for place in range(len(results))]
        lengths = [result.median(key) or 0.0 for result in results]
        spreads = [result.spread(key) for result in results]
        bars = axis.barh(places, lengths, height, xerr=spreads, label=_word(key), color=COLORS[number], error_kw=_THIN)
        axis.bar_label(bars, fmt="%.3g", fontsize=6, padding=2)
    axis.set_yticks([place + 0.4 - height / 2 for place in range(len(results))], [result.name for result in results])
    axis.invert_yaxis()
    axis.set_title(title, fontsize=10)


def _draw_limits(axis: Any, keys: tuple[str, ...], limits: list[Result]) -> None:
    """Draws a line for each limit of each figure, and the legend that names them."""
    longest = axis.get_xlim()[1]
    for style, limit in zip(cycle(LINES), limits, strict=False):
        for color, key in zip(COLORS, keys, strict=False):
            value = limit.median(key)
            if value is None:
                continue
            label = f"{limit.name}{f', {_word(key)}' if len(keys) > 1 else ''}: {value:.3g}"
            is_near = value <= longest * ROOM
            axis.axvline(value if is_near else longest, color=color, linestyle=style, alpha=0.8 if is_near else 0, label=label)
    if len(keys) > 1 or axis.get_lines():
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _word(key: str) -> str:
    """Returns what tells the figures of one part from each other."""
    return next((word for word in ("up", "down", "p50", "p99") if word in key.replace("8", "").split("_")), BY_KEY[key].title)
