"""Rules of imports: rooms import downwards only, nothing imports in a circle, outside packages have their place."""

from __future__ import annotations

import re
from pathlib import Path

import module_graph as graph

# From the ground up. A room imports rooms of the lines above it; rooms of one line do not import each other.
ORDER = [
    "_abi",
    "environment · settings · files · group · configs",
    "functional · networks · toy",
    "losses · projection · gradient_exchange · step_checks · step_networks · first_prototypes",
    "step · viz",
    "inference",
    "mmseg.mmengine_compat",
    "mmseg.datasets · mmseg.evaluation",
    "mmseg.checkpoints",
    "mmseg.models",
    "mmseg.engine",
    "mmseg",  # registers the components below it
    "mmseg.run",
    "loading",  # pipa.load
    "",  # pipa/__init__.py
    "study",
    "commands",
    "__main__",
]
LEVEL = {f"pipa.{room}".rstrip("."): level for level, line in enumerate(ORDER) for room in line.split(" · ")}
OPENMMLAB = {"mmengine", "mmcv", "mmseg", "mmpretrain"}

MODULES = graph.python_modules()
INNER, OUTER = graph.python_imports(MODULES)


def room_of(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:3] if parts[1:2] == ["mmseg"] else parts[:2])


def test_every_room_has_its_place() -> None:
    assert {room_of(module) for module in MODULES} <= set(LEVEL), "add the new room to ORDER and to the README's map"


def test_every_room_is_on_the_map() -> None:
    """The README's table "Where things are" names each; private modules are for the package alone."""
    table = (graph.ROOT / "README.md").read_text().split("## Where things are")[1].split("## ")[0]
    named = set(re.findall(r"`(?:python/pipa/)?(?:mmseg/)?(\w+)/?`", table))
    rooms = {room_of(module).rpartition(".")[2] for module in MODULES}
    assert {room for room in rooms if not room.startswith("_")} - {"pipa"} <= named


def test_rooms_import_downwards() -> None:
    upwards = [
        f"{module} imports {other}"
        for module, others in INNER.items()
        for other in sorted(others)
        if room_of(module) != room_of(other) and LEVEL[room_of(other)] >= LEVEL[room_of(module)]
    ]
    assert not upwards


def test_no_circles() -> None:
    assert graph.circles(INNER) == []


def test_only_mmseg_imports_openmmlab() -> None:
    strangers = {module: OUTER[module] & OPENMMLAB for module in MODULES if not module.startswith("pipa.mmseg")}
    assert not {module for module, names in strangers.items() if names}


def test_private_names_of_openmmlab_stand_in_one_file() -> None:
    """Elsewhere only our own, torch's and a namedtuple's are used; an update of mmengine breaks one file."""
    others = {"_core", "_native", "_modules", "_BatchNorm", "_foreach_norm", "_functorch", "_replace", "_exit"}
    for module, file in MODULES.items():
        if module.startswith("pipa.mmseg.") and module != "pipa.mmseg.mmengine_compat":
            assert graph.private_names(file) <= others, module
    assert {"_resume", "_InfiniteDataloaderIterator"} <= graph.private_names(MODULES["pipa.mmseg.mmengine_compat"])


def test_only_the_bindings_use_pyo3() -> None:
    for module, file in graph.rust_modules().items():
        if module.split("::")[0] != "python":
            assert "pyo3" not in graph.rust_code(file), file


def test_no_circles_in_rust() -> None:
    uses = graph.rust_uses(graph.rust_modules())
    assert sum(map(len, uses.values())) > 50
    assert graph.circles(uses) == []


def test_the_scan_sees_what_it_should(tmp_path: Path) -> None:
    """Lazy, relative, aliased and named imports, a circle of three, and no file twice."""
    files = {
        "pipa/__init__.py": "",
        "pipa/a/__init__.py": "from . import b\n",
        "pipa/a/b.py": "def f():\n    from pipa.a.c import name\n",
        "pipa/a/c.py": "from importlib import import_module\nimport mmseg.apis as x\nimport_module('pipa.a')\n",
        "pipa/d.py": "import pipa.a.b, numpy\nfrom pipa import _core, a\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    inner, outer = graph.python_imports(graph.python_modules(tmp_path))
    assert inner["pipa.d"] == {"pipa.a.b", "pipa.a"}
    assert outer["pipa.a.c"] == {"importlib", "mmseg"}
    assert graph.circles(inner) == [["pipa.a", "pipa.a.b", "pipa.a.c"]]
