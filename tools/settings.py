"""Write what follows from the settings of the Rust core: the types in python/pipa/settings.py, the tables of
docs/settings.md.

    python tools/settings.py            write both
    python tools/settings.py --check    fail where a file is not what would be written
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from pipa import _core

ROOT = Path(__file__).resolve().parents[1]
TYPES, TABLES = ROOT / "python/pipa/settings.py", ROOT / "docs/settings.md"
BEGIN = "# --- made by tools/settings.py from the Rust core ---\n"
END = "# --- end of what tools/settings.py makes ---\n"
WIDTH = 116
PYTHON = {
    "int": "int",
    'int or "head"': 'int | Literal["head"]',
    "float": "float",
    "bool": "bool",
    "pair of int": "Sequence[int]",
    "pair of float": "Sequence[float]",
    "list of float": "Sequence[float]",
    "list of int or null": "Sequence[int] | None",
}


def schema() -> list[dict[str, Any]]:
    return json.loads(_core.settings_schema())


def types(text: str) -> str:
    """settings.py with the types of the settings between its marks."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    entries = schema()
    aliases: dict[str, list[tuple[str, str]]] = {e["type"]: e["choices"] for e in entries if e["choices"]}
    lines = []
    for alias, choices in aliases.items():
        lines.append(f"{alias} = Literal[{', '.join(json.dumps(word) for word, _ in choices)}]")
        lines.append(docstring(" ".join(f"``{json.dumps(word)}``: {plain(doc)}" for word, doc in choices), ""))
    lines.append("\n\nclass StepSettings(TypedDict, total=False):")
    lines.append('    """Settings of one PiPa iteration, except ``num_classes``, which is an argument of its own."""\n')
    for entry in entries:
        if entry["name"] == "num_classes":
            continue
        facts = [f"Default {python(entry['default'])}"]
        facts += [entry["range"]] if entry["range"] else []
        facts += [entry["unit"]] if entry["unit"] else []
        lines.append(f"    {entry['name']}: {PYTHON.get(entry['type'], entry['type'])}")
        lines.append(docstring(f"{plain(entry['doc'])} {', '.join(facts)}.", "    "))
    return before + BEGIN + "\n".join(lines) + "\n\n\n" + END + after


def plain(doc: str) -> str:
    """Markdown's code marks as those of reStructuredText; JSON's null as Python's None."""
    return re.sub(r"`([^`]+)`", r"``\1``", doc).replace("null:", "None:")


def python(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def docstring(text: str, indent: str) -> str:
    """A literal docstring, wrapped."""
    if len(text) + len(indent) + 6 <= WIDTH + 4:
        return f'{indent}"""{text}"""'
    body = textwrap.fill(text, WIDTH, initial_indent=f'{indent}"""', subsequent_indent=indent)
    return f'{body}\n{indent}"""'


def tables(text: str) -> str:
    """docs/settings.md with one table per section of the iteration's settings."""
    before, after = text.split("\n## ", 1)[0], text[text.index("\n## Of the hook") :]
    sections: dict[str, list[str]] = {}
    for entry in schema():
        row = f"| `{entry['name']}` | `{json.dumps(entry['default'])}` | {range_of(entry)} | {meaning(entry)} |"
        sections.setdefault(entry["section"], []).append(row)
    head = "| setting | default | range | meaning and reason |\n|---|---|---|---|\n"
    parts = [f"\n## {section}\n\n{head}" + "\n".join(rows) + "\n" for section, rows in sections.items()]
    return before + "".join(parts) + after


def range_of(entry: dict[str, Any]) -> str:
    if entry["choices"]:
        return ", ".join(f"`{json.dumps(word)}`" for word, _ in entry["choices"])
    return " ".join(part for part in (entry["range"], entry["unit"]) if part) or entry["type"]


def meaning(entry: dict[str, Any]) -> str:
    return " ".join([entry["doc"], *(f"`{json.dumps(word)}`: {doc}" for word, doc in entry["choices"])])


def main(check: bool) -> int:
    stale = 0
    for path, made in ((TYPES, types), (TABLES, tables)):
        old = path.read_text()
        new = made(old)
        if new == old:
            continue
        stale += 1
        if check:
            print(f"{path.relative_to(ROOT)} is not what the Rust core says: run python tools/settings.py")
        else:
            path.write_text(new)
    return stale if check else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
