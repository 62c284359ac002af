"""The documentation's tables say what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipa.settings import HOOK_DEFAULTS, default_settings

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROW = re.compile(r"^\| `(\w+)` \| `([^`]*)` \| (.+) \|$", re.M)


def table(text: str) -> dict[str, Any]:
    """Name -> default of every row; each row must also give a reason."""
    rows = ROW.findall(text)
    assert len({name for name, _, _ in rows}) == len(rows), "a setting is listed twice"
    assert all(len(reason) > 3 for _, _, reason in rows)
    return {name: json.loads(default) for name, default, _ in rows}


def test_hook_arguments_are_listed_with_their_defaults() -> None:
    _iteration, hook = (DOCS / "settings.md").read_text().split("## Of the hook")
    assert table(hook) == HOOK_DEFAULTS


@pytest.mark.parametrize("page", ["README.md", *sorted(f"docs/{path.name}" for path in DOCS.glob("*.md"))])
def test_links_lead_to_files(page: str) -> None:
    """A folder or a file that is not there is a dead link of the site."""
    path = DOCS.parent / page
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", prose)
    assert [target for target in targets if not (path.parent / target).is_file()] == []


def test_migration_names_exist() -> None:
    """Every `pipa.X`, config and hook setting that docs/migration.md sends people to is there."""
    from pipa.configs import list_configs

    text = (DOCS / "migration.md").read_text()
    configs = {name for name, _ in list_configs()}
    named = set(re.findall(r"`((?:gta2cs|synthia2cs|cs2acdc|cs2darkzurich)_\w+)`", text))
    assert named
    assert named <= configs
    settings = set(re.findall(r"`pipa\.(\w+)`", text))
    assert len(settings) > 15
    assert settings - {"functional"} <= set(default_settings())
