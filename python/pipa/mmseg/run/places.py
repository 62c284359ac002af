"""The line of a config file that says a setting, for messages: `configs/mine.py:12`.

Only read, never run: a dict, a list or a name that is assigned once is followed, into base files too. What a program
computes is not followed; then the line is that of the nearest setting around it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipa.configs import list_configs
from pipa.files.plain import SUFFIXES

# mmengine's way to name a value of a base file; no Python.
_BASE_VALUE = re.compile(r"\{\{\s*_base_\.(\w+)[\w.\[\]]*\s*\}\}")


def tokens(place: str) -> list[str | int]:
    """`custom_hooks[0].patch_size` -> ["custom_hooks", 0, "patch_size"]."""
    found = re.findall(r"([^.\[\]]+)|\[(\d+)\]", place)
    return [name if name else int(number) for name, number in found]


def line_of(file: str | Path, place: str, options: Sequence[str] = ()) -> str | None:
    """Where a setting is said: `FILE:LINE`, or the option of the command line that says it.

    Args:
        file: the config. place: the setting, `model.decode_head.num_classes`. options: `KEY=VALUE` of the command line.
    """
    dotted = ".".join(map(str, tokens(place)))
    for option in options:
        key = option.partition("=")[0]
        if dotted == key or dotted.startswith(f"{key}."):
            return f"--cfg-options {option}"
    best: tuple[int, Path, int] | None = None
    for source in _files(Path(file)):
        depth, line = _follow(source, tokens(place))
        if depth and (best is None or depth > best[0]):
            best = (depth, source, line)
    if best is None:
        return None
    shipped = best[1].stem in dict(list_configs())  # composed, in a folder that does not last
    return f"{best[1].name if shipped else best[1]}:{best[2]}"


def _files(file: Path, seen: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The config's file, then its base files."""
    if not file.is_file():
        file = next((f for f in map(file.with_suffix, SUFFIXES) if f.is_file()), file)
    if not file.is_file() or file in seen:
        return
    yield file
    for base in _bases(file):
        yield from _files(file.parent / base, (*seen, file))


def _bases(file: Path) -> list[str]:
    if file.suffix in SUFFIXES:
        found = re.search(r"^_base_\s*:\s*(\S+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        return [found[1].strip("\"'")] if found else []
    value = _names(file).get("_base_")
    parts = value.elts if isinstance(value, (ast.List, ast.Tuple)) else [value]
    return [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def _names(file: Path) -> dict[str, ast.expr]:
    """What the top level of a file assigns, the last value of each name."""
    try:
        tree = ast.parse(_BASE_VALUE.sub(r"_base_value_\1", file.read_text(encoding="utf-8")))
    except (SyntaxError, UnicodeDecodeError, OSError):
        return {}
    found: dict[str, ast.expr] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            found.update({t.id: statement.value for t in statement.targets if isinstance(t, ast.Name)})
    return found


def _follow(file: Path, parts: list[str | int]) -> tuple[int, int]:
    """How many parts of a place a file says, and the line of the last one."""
    if file.suffix in SUFFIXES:
        return _follow_plain(file, parts)
    names = _names(file)
    node = names.get(str(parts[0]))
    if node is None:
        return 0, 0
    depth, line = 1, node.lineno
    for part in parts[1:]:
        for _ in range(10):  # names of names
            if not isinstance(node, ast.Name) or node.id not in names:
                break
            node = names[node.id]
        node = _child(node, part)
        if node is None:
            break
        depth, line = depth + 1, node.lineno
    return depth, line


def _child(node: ast.expr | None, part: str | int) -> ast.expr | None:
    if isinstance(part, int):
        if isinstance(node, (ast.List, ast.Tuple)) and part < len(node.elts):
            before = node.elts[: part + 1]
            return None if any(isinstance(e, ast.Starred) for e in before) else node.elts[part]
        return None
    if isinstance(node, ast.Call):
        return next((k.value for k in node.keywords if k.arg == part), None)
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return next((v for k, v in pairs if isinstance(k, ast.Constant) and k.value == part), None)
    return None


def _follow_plain(file: Path, parts: list[str | int]) -> tuple[int, int]:
    import yaml

    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return 0, 0
    depth, line = 0, 0
    for part in parts:
        if isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
        else:
            node = None
        if node is None:
            break
        depth, line = depth + 1, node.start_mark.line + 1
    return depth, line
