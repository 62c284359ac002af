"""A checkpoint's content, in whichever layout it was written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipa.files.torch_file import CheckpointError
from pipa.inference.export.folder import WEIGHTS
from pipa.inference.export.safetensors import SUFFIX, read_safetensors
from pipa.mmseg.checkpoints.convert import convert_content
from pipa.mmseg.checkpoints.description import KEY
from pipa.mmseg.checkpoints.keys import rename
from pipa.mmseg.checkpoints.safe_load import load


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """``{"state_dict", "meta", ...}`` with our names, on the host.

    Args:
        path: of a training, an exported or converted ``.pth``, a ``.safetensors`` file or the folder of
            ``save_pretrained``, or a released checkpoint of DAFormer, HRDA, MIC or PiPa, which is converted.

    Raises:
        CheckpointError: no such content. FileNotFoundError: no such file.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / WEIGHTS
    if path.suffix.lower() == SUFFIX:
        return read_safetensors(path)
    content = load(path, map_location="cpu")
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: expected a dictionary, got {type(content).__name__}")
    if KEY not in (content.get("meta") or {}) and _released(content):
        return convert_content(content, str(path))[0]
    return dict(content)


def _released(content: Mapping[str, Any]) -> bool:
    """Does it have the names of the released repositories: a whole training state, or SegFormer's encoder?"""
    state = content.get("state_dict", content)
    keys = [key for key in state if isinstance(key, str)] if isinstance(state, Mapping) else []
    return any(key.startswith(("model.backbone.", "module.model.", "ema_model.")) for key in keys) or any(
        rename(key) != key for key in keys if "backbone." in key
    )
