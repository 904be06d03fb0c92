"""From the text of `perf script` to a picture: recorded lines, counted by hand."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from xml.etree import ElementTree

import pytest

from perf.flame import MIN_SHARE, WIDTH, to_svg
from perf.stacks import Stacks, fold, folded_text, kind_of, top
from tests.harness.lab import ROOT

SCRIPT = """\
# captured on: Mon Nov 23 2026
fz-client      65 47000.104502:     100000 cpu-clock:pppH: 
\tffffffff81a01 _copy_to_iter+0x5e ([kernel.kallsyms])
\tffffffffc0102 tun_do_read+0x120 ([tun])
\t    7f2a00001 read+0x4c (/usr/lib/x86_64-linux-gnu/libc.so.6)
\t    7f2a00002 __pyx_pw_8firezone_2io_9tun_batch_12TunBatchPort_3fill+0x91 (/x/firezone/io/tun_batch.cpython-311.so)
\t    7f2a00003 _PyEval_EvalFrameDefault+0x1 (/usr/lib/libpython3.11.so.1.0)
\t        55501 [unknown] ([unknown])
\t        55502 [unknown] ([unknown])

tun reader  65/67 [001] 47000.104602:     100000 cpu-clock:pppH: 
\t    7f2a00004 compute+0x10 (/x/firezone/kernels/aead.cpython-311-x86_64-linux-gnu.so)
\t    7f2a00005 fz_aead_seal_avx512+0x99 (/x/firezone/kernels/aead.cpython-311-x86_64-linux-gnu.so)
\t    7f2a00006 [unknown] (/usr/lib/x86_64-linux-gnu/libgcc_s.so.1)
\t    7f2a00007 py::Engine.tick:/x/firezone/loop/engine.py+0xb (/tmp/perf-65.map)
\t    7f2a00008 __pyx_f_8firezone_7kernels_4aead_seal_jobs+0xb (/x/firezone/kernels/aead.cpython-311-x86_64-linux-gnu.so)

fz-client      65 47000.104702:     100000 cpu-clock:pppH: 
\tffffffff81a01 _copy_to_iter+0x77 ([kernel.kallsyms])
\tffffffffc0102 tun_do_read+0x120 ([tun])
\t    7f2a00001 read+0x4c (/usr/lib/x86_64-linux-gnu/libc.so.6)
\t    7f2a00002 __pyx_pw_8firezone_2io_9tun_batch_12TunBatchPort_3fill+0x91 (/x/firezone/io/tun_batch.cpython-311.so)
\t    7f2a00003 _PyEval_EvalFrameDefault+0x1 (/usr/lib/libpython3.11.so.1.0)
\t        55509 [unknown] ([unknown])
"""
READING = (
    "fz-client", "[unknown]", "_PyEval_EvalFrameDefault_[i]", "tun_batch.TunBatchPort.fill_[f]", "read", "tun_do_read_[k]",
    "_copy_to_iter_[k]",
)  # fmt: skip
SEALING = (
    "tun reader", "aead.seal_jobs_[f]", "py::Engine.tick:engine.py", "[libgcc_s.so.1]", "fz_aead_seal_avx512_[f]",
    "aead.compute_[f]",
)  # fmt: skip


def test_stacks_are_counted_with_names_that_the_source_has() -> None:
    assert fold(SCRIPT.splitlines(keepends=True)) == {READING: 2, SEALING: 1}


def test_between_functions_with_names_the_interpreter_is_left_out() -> None:
    lines = ["t 1 1.000001: 1 cpu-clock: ", "\tf _PyEval_EvalFrameDefault+0x1 (/usr/bin/python3.13)",
             "\tf py::run:/x/loop.py+0x1 (/tmp/jitted-1-2.so)", "\tf PyObject_Vectorcall+0x1 (/usr/bin/python3.13)", 
             "\tf main+0x1 (/x)"]  # fmt: skip
    assert fold(lines) == {("t", "main", "py::run:loop.py", "_PyEval_EvalFrameDefault_[i]"): 1}


@pytest.mark.parametrize("text", ["", "\n\n", "perf: no data\n", "fz-client 65 cpu-clock\n\tffff nothing\n\n"])
def test_what_is_no_sample_is_none(text: str) -> None:
    assert not fold(text.splitlines())


def test_a_sample_without_a_stack_is_the_threads() -> None:
    assert fold(["swapper     0 [000] 1.000001:    100000 cpu-clock:pppH: ", ""]) == {("swapper",): 1}


def test_folded_text_is_a_line_per_stack() -> None:
    stacks: Stacks = Counter({("a", "b;c"): 3, ("a",): 1})
    assert folded_text(stacks) == "a 1\na;b:c 3\n"


def test_the_top_is_where_samples_were_taken_not_what_led_there() -> None:
    stacks: Stacks = Counter({("t", "run", "seal"): 6, ("t", "run"): 2, ("u", "seal"): 2})
    assert top(stacks) == [("seal", 80.0), ("run", 20.0)]
    assert top(stacks, 1) == [("seal", 80.0)]


@pytest.mark.parametrize(
    ("frame", "kind"),
    [("vfs_read_[k]", "kernel"), ("fz_split_batch_[f]", "ours"), ("py::Engine.tick:engine.py", "python"), ("read", "other"),
     ("_PyEval_EvalFrameDefault_[i]", "interpreter"), ("[k]", "other")],
)  # fmt: skip
def test_a_frame_tells_whose_code_it_is(frame: str, kind: str) -> None:
    assert kind_of(frame) == kind


def boxes(svg: str) -> dict[str, list[float]]:
    """Returns x, y and width of every frame by its title, and proves that browsers can read it all."""
    space = "{http://www.w3.org/2000/svg}"
    found = {}
    for group in ElementTree.fromstring(svg).iter(f"{space}g"):
        title, box = group.find(f"{space}title"), group.find(f"{space}rect")
        assert title is not None and box is not None and title.text is not None  # noqa: PT018
        found[title.text] = [float(box.attrib[name]) for name in ("x", "y", "width")]
    return found


def test_a_picture_has_widths_by_samples_and_callers_below() -> None:
    found = boxes(to_svg(Counter({("t", "<run>", "seal"): 3, ("t", "<run>", "open"): 1}), "a & b"))
    assert found.keys() == {"t: 100.00 %", "<run>: 100.00 %", "seal: 75.00 %", "open: 25.00 %"}
    whole = found["t: 100.00 %"][2]
    assert found["seal: 75.00 %"][2] == pytest.approx(whole * 0.75, abs=0.2)
    assert found["open: 25.00 %"][0] + found["open: 25.00 %"][2] == pytest.approx(found["seal: 75.00 %"][0], abs=0.2)
    assert found["t: 100.00 %"][1] > found["<run>: 100.00 %"][1] > found["seal: 75.00 %"][1] > 0
    assert whole < WIDTH


def test_names_are_cut_to_their_boxes_and_kept_whole_in_the_title() -> None:
    name = "x" * 400
    svg = to_svg(Counter({("t", name): 1, ("t", "y" * 400): 199}), "t")
    assert f"{name}: 0.50 %" in svg
    assert max(len(text) for text in re.findall(r">([xy]+…?)</text>", svg)) < 300
    assert not re.search(r">x+…</text>", svg), "there is no room for a letter"


def test_what_cannot_be_seen_is_not_drawn() -> None:
    rare = round(1 / MIN_SHARE) + 1
    stacks: Stacks = Counter({("t", "often"): rare - 1, ("t", "rare"): 1})
    found = boxes(to_svg(stacks, "t"))
    assert len(found) == 2
    assert not [title for title in found if title.startswith("rare")]


def test_a_hundred_thousand_stacks_stay_a_small_file() -> None:
    stacks: Stacks = Counter({("t", *(f"function_number_{n >> shift}" for shift in (12, 9, 6, 3, 0))): 1 for n in range(100_000)})
    assert len(to_svg(stacks, "t")) < 300 * 1024


def test_nothing_is_no_picture() -> None:
    with pytest.raises(ValueError, match="no samples"):
        to_svg(Counter(), "t")


def test_by_hand_text_goes_in_and_a_picture_comes_out() -> None:
    command = [sys.executable, "-m", "perf.flame"]
    done = subprocess.run(command, input=SCRIPT, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "tun reader: 33.33 %" in boxes(done.stdout)
    done = subprocess.run(command, input="nothing", cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "This is not what perf script prints.\n")
