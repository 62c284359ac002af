"""Which module of the package imports which, read from the sources without running them; lazy imports count too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
Graph = dict[str, set[str]]


def python_modules(folder: Path = ROOT / "python") -> dict[str, Path]:
    """Dotted name -> file. Shipped configs are left out: they are data for mmengine's reader."""
    found = {}
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if parts[:2] != ("pipa", "configs") or len(parts) == 2:
            found[".".join(parts)] = file
    return found


def imported_names(module: str, file: Path) -> Iterator[str]:
    """Every dotted name that an import of this file may mean: of `from a import b` it is "a.b"."""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def python_imports(modules: Mapping[str, Path]) -> tuple[Graph, Graph]:
    """Imports among `modules`, and top names of other packages. `pipa._core` counts as another package."""
    inner: Graph = {name: set() for name in modules}
    outer: Graph = {name: set() for name in modules}
    for module, file in modules.items():
        for name in imported_names(module, file):
            if name.split(".")[0] != "pipa" or name.split(".")[:2] == ["pipa", "_core"]:
                outer[module].add(name.split(".")[0])
                continue
            while name not in modules:
                name = name.rpartition(".")[0]
            if name != module:
                inner[module].add(name)
    return inner, outer


def private_names(file: Path) -> set[str]:
    """Private attributes that a file takes of something else than itself, and private names that it imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and not re.match(r"(self|cls|super\(.*\))$", ast.unparse(node.value)):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


def rust_modules(folder: Path = ROOT / "src") -> dict[str, Path]:
    """Path below the crate ("loss::contrast") -> file; test modules are left out."""
    found = {}
    for file in sorted(folder.rglob("*.rs")):
        parts = file.relative_to(folder).with_suffix("").parts
        if parts[-1] in ("mod", "lib"):
            parts = parts[:-1]
        if "tests" not in parts:
            found["::".join(parts)] = file
    return found


def rust_code(file: Path) -> str:
    """Source without comments and without what follows `#[cfg(test)]`."""
    return re.sub(r"//.*", "", file.read_text()).split("#[cfg(test)]\nmod")[0]


def rust_uses(modules: Mapping[str, Path]) -> Graph:
    """What each module names by `crate::` or `super::`, in `use` and elsewhere."""
    uses: Graph = {name: set() for name in modules}
    for module, file in modules.items():
        code = rust_code(file)
        names = set(re.findall(r"\bcrate::(\w+(?:::\w+)*)", code))
        for group in re.findall(r"\bcrate::\{([^;]*)\};", code):
            names |= {part.strip().split("::")[0] for part in group.split(",") if part.strip()}
        for up, name in re.findall(r"\b((?:super::)+)(\w+)", code):
            above = module.split("::")[: -up.count("super")]
            names.add("::".join([*above, name]))
        for name in names:
            while name and name not in modules:
                name = name.rpartition("::")[0]
            if name and name != module:
                uses[module].add(name)
    return uses


def circles(graph: Graph) -> list[list[str]]:
    """Sets of modules that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting.extend(graph[name])
        return seen

    below = {name: reached(name) for name in graph}
    found = {frozenset(b for b in below[a] if a in below[b]) for a in graph if a in below[a]}
    return sorted(sorted(circle) for circle in found)
