"""The recorded inputs and outputs of the released code in tests/data; a case that is not there is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

DATA = Path(__file__).resolve().parent.parent / "data"


def arrays(name: str) -> dict[str, Tensor]:
    """Tensors of tests/data/NAME.npz, in the recorded types."""
    with np.load(DATA / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.array(value)) for key, value in file.items()}


def table(name: str) -> Any:
    """Content of tests/data/NAME.json."""
    return json.loads((DATA / f"{name}.json").read_text())


def entry(name: str) -> dict[str, Any]:
    """What tests/data/FOLDER/README.json says about the case FOLDER/FILE: settings, draws, scalars."""
    folder, file = name.split("/")
    found = [case for case in table(f"{folder}/README")["cases"] if case.get("file") == f"{file}.npz"]
    if len(found) != 1:
        raise KeyError(f"tests/data/{folder}/README.json: {len(found)} entries for {file}.npz, expected one")
    return dict(found[0])


def weights(name: str) -> dict[str, Tensor]:
    """Tensors of tests/data/NAME.safetensors."""
    return load_file(DATA / f"{name}.safetensors")
