"""Pages of the documentation site that are made from the code: the first page, commands, Python API, changes."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import mkdocs_gen_files

import pipa
from pipa.commands.cli import parser

ROOT = Path(__file__).resolve().parent.parent


def page(name: str, text: str) -> None:
    with mkdocs_gen_files.open(name, "w") as file:
        file.write(text)


def relative(text: str) -> str:
    """Links of a file of the repository's root, as seen from docs/; other files of the repository link to the forge."""
    text = re.sub(r"\]\((?!docs/|\w+:|#)", "](https://github.com/pipa-rs/pipa-rs/blob/main/", text)
    text = re.sub(r"\]\(docs/", "](", text)
    return re.sub(r'src="docs/', 'src="', text)


def commands() -> str:
    """Every subcommand with its own help, as the parser prints it."""
    top = parser()
    (action,) = (a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    parts = ["# Commands", f"```text\n{top.format_help()}```"]
    for name, command in action.choices.items():
        parts.append(f"## pipa {name}\n\n{command.description}\n\n```text\n{command.format_help()}```")
    return "\n\n".join(parts) + "\n"


def documented(value: object, name: str) -> object:
    if not getattr(value, "__doc__", None):
        raise SystemExit(f"{name}: a public name without docstring")
    return value


def api() -> str:
    """The public names: what `pipa` exports, its functions, and the registered components."""
    parts = ["# Python", "Shape suffixes: B batch, C classes, D channels, H W size, N anchors, M keys."]
    exceptions = [n for n in pipa.__all__ if n.endswith("Error")]
    for name in pipa.__all__:
        value = documented(getattr(pipa, name), name)
        if isinstance(value, type) and name not in exceptions:
            parts.append(f"::: {value.__module__}.{name}\n    options: {{ heading_level: 2 }}")
    parts.append("## pipa.functional")
    for name in pipa.functional.__all__:
        function = documented(getattr(pipa.functional, name), name)
        parts.append(f"::: {function.__module__}.{name}\n    options: {{ heading_level: 3 }}")
    return "\n\n".join(parts) + "\n"


page("index.md", relative((ROOT / "README.md").read_text(encoding="utf-8")))
page("changelog.md", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
page("commands.md", commands())
page("api.md", api())
