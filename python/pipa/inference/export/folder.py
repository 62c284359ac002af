"""`save_pretrained`: weights, a readable description and a model card in one folder, as model hubs expect them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from pipa.files.atomic import write_text
from pipa.inference.export.card import card
from pipa.inference.export.earlier import CONFIG, README, WEIGHTS, refuse_other_folder
from pipa.inference.export.metadata import to_text
from pipa.inference.export.safetensors import write_safetensors

#: The key of a file's meta data under which the description lies.
KEY = "inference"


def write_folder(folder: Path, state: dict[str, Tensor], description: dict[str, Any]) -> list[Path]:
    """Write model.safetensors, config.json and README.md; the files that were written.

    Raises:
        FileExistsError: one of the three is there and of no export of ours.
    """
    refuse_other_folder(folder)
    path = folder / README
    folder.mkdir(parents=True, exist_ok=True)
    weights = write_weights(folder / WEIGHTS, state, description)
    config = write_text(folder / CONFIG, to_text(description, indent=1) + "\n")
    return [weights, config, write_text(path, card(description, str(folder)))]


def write_weights(path: Path, state: dict[str, Tensor], description: dict[str, Any]) -> Path:
    """One safetensors file that carries its description."""
    meta = {KEY: description}
    if description.get("weights"):
        meta["weights"] = description["weights"]
    return write_safetensors(path, state, meta)
