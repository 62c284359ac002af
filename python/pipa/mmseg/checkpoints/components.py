"""What plain data may ask for: registered components and the modules of this package and its libraries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine import registry
from mmengine.registry import Registry

# Modules that a file of data may have imported.
IMPORTS = ("pipa", "mmseg", "mmcv", "mmengine", "mmpretrain")
# Keys whose value mmengine looks up as a class or function.
_LOOKED_UP = ("type", "constructor", "runner_type")


def looked_up(node: Any) -> Iterator[str]:
    """Every name in a config that mmengine would look up."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in _LOOKED_UP and isinstance(value, str):
                yield value
            yield from looked_up(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from looked_up(value)


def is_registered(dotted: str) -> bool:
    """Is ``SCOPE.NAME`` a component of some registry?"""
    scope, _, name = dotted.partition(".")
    roots = [value for value in vars(registry).values() if isinstance(value, Registry)]
    children = [root.children[scope] for root in roots if scope in root.children]
    return any(name in one.module_dict for one in [*children, *(r for r in roots if r.scope == scope)])


def registries() -> Iterator[Registry]:
    """All of mmengine's registries and their children."""
    for root in vars(registry).values():
        if isinstance(root, Registry):
            yield root
            yield from root.children.values()
