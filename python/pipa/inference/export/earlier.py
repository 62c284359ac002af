"""Which files an export may take the place of: those of an earlier export, and no other."""

from __future__ import annotations

import importlib
from pathlib import Path

from pipa.files.atomic import refuse_other
from pipa.files.plain import read_plain
from pipa.files.torch_file import meta_of
from pipa.inference.export.card import MARK
from pipa.inference.export.metadata import NAME
from pipa.inference.export.safetensors import SUFFIX, read_metadata

WEIGHTS = f"model{SUFFIX}"
CONFIG, README = "config.json", "README.md"
#: What an exported ``.pth`` says of its weights; a training's checkpoint does not.
WHICH = "weights"


def is_card(path: Path) -> bool:
    """Is the file a model card of ours?"""
    return MARK in path.read_text(encoding="utf-8", errors="replace")[:400]


def refuse_other_file(path: Path, form: str) -> None:
    """Refuse to write an export over a file that no export has written.

    Raises:
        ValueError: a folder. FileExistsError: another file.
    """
    if path.is_dir():
        raise ValueError(f"{path}: expected a file for --out, found a folder (only safetensors take one)")
    ours = {"pth": _is_pth, "safetensors": _is_safetensors, "onnx": _is_onnx}[form]
    refuse_other(path, ours, f"{form} file of an earlier export")


def refuse_other_folder(folder: Path) -> None:
    """Refuse to write a model's folder over files that no export has written.

    Raises:
        FileExistsError: names the first of them.
    """
    refuse_other(folder / README, is_card, "model card of pipa-rs")
    refuse_other(folder / WEIGHTS, _is_safetensors, "safetensors file of an earlier export")
    refuse_other(folder / CONFIG, _is_description, "description of an earlier export")


def _is_pth(path: Path) -> bool:
    return WHICH in meta_of(path)


def _is_safetensors(path: Path) -> bool:
    try:
        return NAME in read_metadata(path)
    except ValueError:
        return False


def _is_description(path: Path) -> bool:
    try:
        content = read_plain(path)
    except ValueError:
        return False
    return isinstance(content, dict) and {"format", "model", "test_pipeline"} <= set(content)


def _is_onnx(path: Path) -> bool:
    onnx = importlib.import_module("onnx")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # protobuf's own errors
        return False
    return any(entry.key == NAME for entry in model.metadata_props)
