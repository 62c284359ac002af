"""The configs that come with the package: ``DOMAINS_NETWORK_METHOD``, composed from the annotated pieces in ``_base_``.

A name becomes one Python text (:func:`compose`): network, images, data sets, loaders, method, schedule, one after the
other, so that a value stands once and all that follows from it is computed from it. Adding a network or a method is
one file in ``_base_/networks`` or ``_base_/methods``; its first comments say what it goes with:

    # title: DAFormer             part of the description
    # over: self_training         pieces of the same folder that come before it
    # set: batch_size = 4  # why  replaces a variable of another piece
    # networks: ... / methods: ... / domains: ...   what it is combined with; without: all
    # pipelines, sampling, schedule, self_training: which piece of that kind (a network says it)

A few more configs are files of this folder. `PIPA_DATA` names the folder of the data sets (default ``data``),
`PIPA_PRETRAINED` that of the encoder's weights (default ``pretrained``).
"""

from __future__ import annotations

import ast
import atexit
import difflib
import json
import re
import shutil
import tempfile
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
_BASE = _FOLDER / "_base_"
_LONE = ("title", "pipelines", "sampling", "schedule", "self_training")
# In the list; other methods follow by name.
_ORDER = ("source_only", "self_training", "dacs", "pixel", "patch", "pipa")
_LISTS = ("over", "networks", "methods", "domains")


@dataclass(frozen=True)
class Piece:
    """A file of ``_base_``: what it is, what its first comments say, and its code."""

    name: str
    text: str  # docstring
    directives: dict[str, str]
    sets: tuple[tuple[str, str, str], ...]  # (where, assignment, reason)
    code: str

    def words(self, key: str) -> list[str]:
        return self.directives.get(key, "").split()


def list_configs() -> list[tuple[str, str]]:
    """Name and one-line description of every config, sorted by name."""
    files = [file for file in _FOLDER.glob("*.py") if not file.stem.startswith("_")]
    found = [(file.stem, _description(file.read_text(encoding="utf-8"))) for file in files]
    return sorted(found + [(name, _title(*parts)) for name, parts in _composed().items()])


def groups() -> dict[str, list[tuple[str, str]]]:
    """The configs by method: title of the method -> name and description of each."""
    methods = sorted(_pieces("methods"), key=len, reverse=True)
    found: dict[str, list[tuple[str, str]]] = {method: [] for method in (*_ORDER, *sorted(methods), "")}
    for name, text in list_configs():
        found[next((method for method in methods if name.endswith(f"_{method}")), "")].append((name, text))
    titles = {method: piece.directives["title"] for method, piece in _pieces("methods").items()}
    titles[""] = "bounds and rivals"
    return {titles[m][0].upper() + titles[m][1:]: configs for m, configs in found.items() if configs}


@cache
def figures() -> dict[str, str]:
    """Name -> published mIoU of its method on its pair, from the papers; for SYNTHIA over 16 and over 13 classes."""
    return json.loads((_BASE / "figures.json").read_text(encoding="utf-8"))


def compose(name: str) -> str:
    """The whole config of a name as one commented Python text.

    Args:
        name: as in :func:`list_configs`, of a config that is not a file of this folder.

    Raises:
        ValueError: there is no such config; the message names the nearest ones.

    >>> print(compose("gta2cs_daformer_pipa").splitlines()[0])
    \"\"\"GTA5 -> Cityscapes, DAFormer: PiPa (self-training, pixel and patch contrast).
    """
    if name not in _composed():
        raise _unknown(name)
    domains, network, method = _composed()[name]
    pair, way = _pieces("domains")[domains], _pieces("methods")[method]
    networks = _chain("networks", network, {})
    kinds = {key: value for piece in networks for key, value in piece.directives.items()}
    kinds.update({key: value for key, value in way.directives.items() if key in ("sampling", "schedule")})
    instead = {"self_training": kinds.get("self_training", "self_training")}
    methods = _chain("methods", instead.get(method, method), instead)
    scale = kinds["pipelines"]
    pieces = [
        ("network", networks),
        ("images", [_pieces("pipelines")[f"{pair.directives.get('pipelines', domains)}_{scale}"]]),
        ("data sets", [pair]),
        ("sampling", [_pieces("sampling")[kinds["sampling"]]]),
        ("loaders", [_piece(_BASE / "loaders.py")]),
        ("method", methods),
        ("optimiser and schedule", [_pieces("schedules")[kinds["schedule"]]]),
        ("runtime", [_piece(_BASE / "runtime.py")]),
    ]
    figure = f"\n\nPublished: {figures()[name]} mIoU." if name in figures() else ""
    text = f'"""{_title(domains, network, method)}.{figure}\n\nIts name is {name}. {_USE}\n"""\n'
    for heading, parts in pieces:
        text += f"\n# -- {heading} {'-' * (113 - len(heading))}\n"
        for part in parts:
            text += f"{_comment(part.text)}\n{part.code}\n\n"
    for piece in (*networks, pair, *methods):
        for where, assignment, reason in piece.sets:
            if where in ("", scale):
                text = _set(text, assignment.format(domains=domains, network=network), reason, piece.name)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


_USE = "Every variable may be changed here or by\n`--cfg-options NAME=VALUE`: what is computed from it follows."


def path_of(name: str) -> Path:
    """File of a config, for ``mmengine.config.Config.fromfile``.

    A composed config is written into a folder that lasts as long as this process.

    Args:
        name: as in :func:`list_configs`, with or without ``.py``.

    Raises:
        ValueError: there is no such config; the message names the nearest ones.
    """
    stem = name.removesuffix(".py")
    file = _FOLDER / f"{stem}.py"
    if not stem.startswith("_") and Path(stem).name == stem and file.is_file():
        return file
    if stem not in _composed():
        raise _unknown(name)
    file = _written() / f"{stem}.py"
    if not file.is_file():
        part = file.with_suffix(".part")
        part.write_text(compose(stem), encoding="utf-8")
        part.replace(file)
    return file


def _unknown(name: str) -> ValueError:
    names = [known for known, _ in list_configs()]
    near = difflib.get_close_matches(name.removesuffix(".py"), names, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return ValueError(f"no config named {name!r}{hint} (`pipa configs` lists all {len(names)})")


@cache
def _written() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="pipa-configs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def _composed() -> dict[str, tuple[str, str, str]]:
    """Name -> domains, network, method of every combination that the pieces allow."""
    found = {}
    for domains in _pieces("domains"):
        for network, net in _pieces("networks").items():
            if net.words("domains") and domains not in net.words("domains"):
                continue
            for method, way in _pieces("methods").items():
                allowed = way.words("networks")
                fits = method in net.words("methods") if net.words("methods") else not allowed or network in allowed
                if fits:
                    found[f"{domains}_{network}_{method}"] = (domains, network, method)
    return found


def _title(domains: str, network: str, method: str) -> str:
    kinds = (("domains", domains), ("networks", network), ("methods", method))
    pair, net, way = (_pieces(kind)[name].directives["title"] for kind, name in kinds)
    return f"{pair}, {net}: {way}"


def _chain(kind: str, name: str, instead: dict[str, str]) -> list[Piece]:
    """A piece after those that it lies over, each once."""
    piece = _pieces(kind)[name]
    found: list[Piece] = []
    for below in piece.words("over"):
        other = instead.get(below, below)  # which may itself lie over what it replaces
        found += [part for part in _chain(kind, below if other == name else other, instead) if part not in found]
    return [*found, piece]


def _comment(text: str) -> str:
    return "".join(
        f"# {line}".rstrip() + "\n" for part in text.split("\n") for line in textwrap.wrap(part, 118) or [""]
    )


def _set(text: str, assignment: str, reason: str, where: str) -> str:
    """Replace the assignment of a variable, and the comment above it."""
    variable = assignment.split(" = ")[0]
    pattern = re.compile(rf"^(?:#(?! --).*\n)*{re.escape(variable)} = .*$", re.MULTILINE)
    text, count = pattern.subn(lambda _: _comment(reason) + assignment, text)
    if count != 1:
        raise ValueError(f"{where}.py sets {variable!r}, which {count} lines of the config assign")
    return text


@cache
def _pieces(kind: str) -> dict[str, Piece]:
    return {file.stem: _piece(file) for file in sorted((_BASE / kind).glob("*.py"))}


@cache
def _piece(file: Path) -> Piece:
    source = file.read_text(encoding="utf-8")
    rest = source.split('"""', 2)[2].lstrip("\n")
    directives, sets = {}, []
    # A directive goes on in lines that are indented more.
    while found := re.match(r"# (\w+)(?: (\w+))?: (.+(?:\n#   .+)*)\n", rest):
        rest = rest[found.end() :]
        key, where, value = found[1], found[2], re.sub(r"\n# +", " ", found[3])
        if key == "set":
            assignment, _, reason = value.partition("  # ")
            sets.append((where or "", assignment, reason))
        elif key in (*_LONE, *_LISTS):
            directives[key] = value
        else:
            raise ValueError(f"{file.name}: unknown directive {key!r}")
    return Piece(file.stem, ast.get_docstring(ast.parse(source)) or "", directives, tuple(sets), rest.strip("\n"))


def _description(source: str) -> str:
    text = ast.get_docstring(ast.parse(source)) or ""
    return text.split("\n", 1)[0].rstrip(".")
