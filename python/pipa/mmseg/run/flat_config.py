"""A shipped config as one complete text to edit: what it takes from its ``_base_`` stands above it, with comments."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipa.mmseg.mmengine_compat import config_source
from pipa.mmseg.run.python_config import FIELDS, evaluate


def flat(path: Path) -> str:
    """The text of a Python config without ``_base_``, which loads as the config does.

    ``model = dict(backbone=dict(depth=18))`` over a base becomes
    ``model = dict(model, backbone=dict(model["backbone"], depth=18))``. Several bases stand one after the
    other: mmengine refuses bases that set the same name.
    """
    source = path.read_text(encoding="utf-8")
    bases = config_source(path).bases
    if not bases:
        return source
    values: dict[str, Any] = {}
    for base in bases:
        values |= evaluate(path.parent / base).values
    source = re.sub(r"\{\{_base_((?:\.\w+)+)\}\}|_base_((?:\.\w+)+)", lambda m: _place(m[1] or m[2]), source)
    above = "\n\n".join(_as_comment(flat(path.parent / base)) for base in bases)
    own = _Text(source)
    for node in own.tree.body:
        name = node.targets[0].id if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) else None
        if not isinstance(node, ast.Assign) or name is None:
            continue
        if name == "_base_":
            own.edit(node, node, "")
        elif isinstance(values.get(name), dict):
            own.merge(node.value, name, values[name])
        elif name in values and name not in FIELDS:  # what the base computes from it follows
            text = own.source_of(node).replace("\\", r"\\")
            above, count = re.subn(rf"(?m)^{name} = .*$", text, above)
            if count == 1:
                own.edit(node, node, "")
    head = ast.get_docstring(own.tree, clean=False)
    body = own.edited()
    title = ""
    if head is not None:
        first = own.tree.body[0]
        title, body = own.source_of(first) + "\n\n", body.replace(own.source_of(first), "", 1)
    if body.strip():
        body = f"\n# -- {path.stem} {'-' * 60}\n\n{body.strip()}\n"
    return re.sub(r"\n{3,}", "\n\n", f"{title}{above}\n{body.rstrip()}").rstrip() + "\n"


def _place(dotted: str) -> str:
    first, *rest = dotted.strip(".").split(".")
    return first + "".join(f'["{part}"]' for part in rest)


def _as_comment(text: str) -> str:
    """The docstring of a text as a comment."""
    head = ast.get_docstring(ast.parse(text))
    if head is None:
        return text.strip()
    body = text.split('"""', 2)[2].lstrip()
    return "\n".join(f"# {line}".rstrip() for line in head.split("\n")) + f"\n\n{body.strip()}"


class _Text:
    """Source text with edits by position."""

    def __init__(self, source: str) -> None:
        self.source, self.tree = source, ast.parse(source)
        self.edits: list[tuple[int, int, str]] = []
        lines = source.encode().splitlines(keepends=True)
        self.starts = [sum(map(len, lines[:i])) for i in range(len(lines) + 1)]

    def at(self, line: int, column: int) -> int:
        return self.starts[line - 1] + column

    def edit(self, first: Any, last: Any, text: str) -> None:
        self.edits.append(
            (self.at(first.lineno, first.col_offset), self.at(last.end_lineno, last.end_col_offset), text)
        )

    def source_of(self, node: Any) -> str:
        raw = self.source.encode()
        return raw[self.at(node.lineno, node.col_offset) : self.at(node.end_lineno, node.end_col_offset)].decode()

    def merge(self, node: ast.expr, place: str, base: Mapping[str, Any]) -> None:
        """Lay a ``dict(...)`` over the value at a place: what it does not name stays."""
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict"):
            self.edit(node, node, f"dict({place}, **{self.source_of(node)})")
            return
        begin = self.at(node.func.end_lineno or 0, node.func.end_col_offset or 0) + 1
        follows = self.source.encode()[begin : begin + 1]
        self.edits.append((begin, begin, f"{place}," + ("" if follows == b"\n" else " ")))
        for keyword in node.keywords:
            if keyword.arg is not None and isinstance(base.get(keyword.arg), dict):
                self.merge(keyword.value, f'{place}["{keyword.arg}"]', base[keyword.arg])

    def edited(self) -> str:
        raw = self.source.encode()
        for begin, end, text in sorted(self.edits, reverse=True):
            raw = raw[:begin] + text.encode() + raw[end:]
        return raw.decode()
