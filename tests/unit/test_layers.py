"""Imports point up the list of layers and never down: the table of the architecture as data, read against every import."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "firezone"

LAYERS: dict[str, set[str]] = {
    "base": set(),
    "kernels": {"base"},
    "wire": {"base", "kernels"},
    "proto": {"base", "kernels", "wire"},
    "datapath": {"base", "kernels", "wire", "proto"},
    "io": {"base", "kernels", "wire"},
    "loop": {"base", "kernels", "wire", "proto", "datapath", "io"},
    "cli": {"base"},
}
"""What each folder may import of ours besides itself. `io` and `datapath` do not know each other: they meet in `loop`. `cli` is
what the command lines of the programs share."""

PROGRAMS = {"client", "gateway", "relay", "portal", "lab"}
"""May import every layer, but not each other: the lab starts the others as processes."""

CYTHON_IMPORT = re.compile(r"^\s*(?:from\s+(?P<source>[\w.]+)\s+c?import\s+\(?(?P<names>[^)\n]*)|c?import\s+(?P<module>[\w., ]+))")


def python_imports(path: Path) -> set[str]:
    """Absolute names of all modules a file imports, wherever in it; relative imports become absolute."""
    found: set[str] = set()
    package = list(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*prefix, *([node.module] if node.module else [])])
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


def cython_imports(path: Path) -> set[str]:
    """The same for `.pyx` and `.pxd`, cimports included."""
    found: set[str] = set()
    for line in path.read_text().splitlines():
        match = CYTHON_IMPORT.match(line)
        if match is None:
            continue
        if match["source"]:
            found.add(match["source"])
            found.update(f"{match['source']}.{name.split()[0]}" for name in match["names"].split(",") if name.split())
        else:
            found.update(name.split()[0] for name in match["module"].split(",") if name.split())
    return found


def imports_of(path: Path) -> set[str]:
    return python_imports(path) if path.suffix in (".py", ".pyi") else cython_imports(path)


def layer_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def layers_imported(path: Path) -> set[str]:
    names = (name.split(".") for name in imports_of(path))
    known = LAYERS.keys() | PROGRAMS
    return {name[1] for name in names if len(name) > 1 and name[0] == "firezone" and name[1] in known}


def allowed(layer: str) -> set[str]:
    if layer in PROGRAMS:
        return LAYERS.keys() | {layer}
    return LAYERS[layer] | {layer} if layer else set()


SOURCES = sorted(path for ending in ("py", "pyi", "pyx", "pxd") for path in PACKAGE.rglob(f"*.{ending}"))


def test_there_is_something_to_read() -> None:
    assert len(SOURCES) > 50


def test_every_folder_is_in_the_table() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= LAYERS.keys() | PROGRAMS


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_up(path: Path) -> None:
    wrong = layers_imported(path) - allowed(layer_of(path))
    assert not wrong, f"{path.relative_to(ROOT)} imports from {', '.join(sorted(wrong))}"


def test_the_reader_sees_every_form_of_import(tmp_path: Path) -> None:
    file = tmp_path / "x.pyx"
    file.write_text(
        "from firezone.kernels.ring cimport PacketRing\n    import firezone.io.clock as clock, os\n"
        "from firezone import loop\ncimport firezone.proto.x\nfrom firezone.wire.stun import (\n    a,\n)\n"
    )
    names = cython_imports(file)
    assert {"firezone.kernels.ring", "firezone.io.clock", "os", "firezone.loop", "firezone.proto.x", "firezone.wire.stun"} <= names
