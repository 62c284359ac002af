"""Segment images of any size with a trained model: `pipa predict`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules
from torch import nn

from pipa.files.images import read_image
from pipa.mmseg.checkpoints.safe_load import load
from pipa.mmseg.run.train import load_weights
from pipa.viz import palette_of, save_prediction

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def predict(
    config: Config, checkpoint: str | Path, images: str | Path, out: str | Path, teacher: bool = False
) -> list[Path]:
    """Write ``NAME_overlay.png`` and ``NAME_label.png`` for each image below ``out``, in the folders of the input.

    Args:
        images: a file, or a folder that is searched through.
        teacher: use the teacher's weights.

    Returns:
        The label files.

    Raises:
        ValueError: no image there, or the checkpoint does not fit the config. OSError: a file cannot be read.
    """
    root, files = find_images(Path(images))
    model = load_model(config, checkpoint, teacher)
    classes, palette = class_names(config, checkpoint, num_classes(model))
    written = []
    for file in files:
        image = read_image(file)
        label = segment(model, image)
        folder = Path(out) / file.relative_to(root).parent
        written.append(save_prediction(folder, file.stem, image, label, palette, classes)[1])
    return written


def find_images(path: Path) -> tuple[Path, list[Path]]:
    """The folder that results are named from, and the images."""
    if path.is_file():
        return path.parent, [path]
    if not path.is_dir():
        raise ValueError(f"{path}: expected an image or a folder of images, found nothing there")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"{path}: no image in this folder (looked for {', '.join(SUFFIXES)})")
    return path, files


def load_model(config: Config, checkpoint: str | Path, teacher: bool = False) -> nn.Module:
    """The config's model with the checkpoint's weights, ready to predict."""
    register_all_modules(init_default_scope=True)
    cfg = config.model.copy()
    for part in (cfg, cfg.get("backbone", {})):
        # The checkpoint holds every weight: do not look for pretrained files.
        for key in ("pretrained", "init_cfg"):
            if key in part:
                part[key] = None
    model = MODELS.build(cfg)
    load_weights(model, checkpoint, teacher)
    return model.to(get_device()).eval()


@torch.no_grad()
def segment(model: Any, image_hwc: np.ndarray) -> np.ndarray:
    """Class ids (H, W) of an RGB image (H, W, 3), uint8."""
    bgr = torch.from_numpy(np.ascontiguousarray(image_hwc[..., ::-1])).permute(2, 0, 1)
    sample = SegDataSample()
    size = image_hwc.shape[:2]
    sample.set_metainfo({"img_shape": size, "ori_shape": size, "pad_shape": size})
    result = model.test_step({"inputs": [bgr], "data_samples": [sample]})[0]
    return result.pred_sem_seg.data.squeeze(0).cpu().numpy()


def num_classes(model: Any) -> int:
    head = model.decode_head
    last: Any = head[-1] if isinstance(head, nn.ModuleList) else head
    return int(last.num_classes)


def class_names(
    config: Config, checkpoint: str | Path, count: int
) -> tuple[Sequence[str] | None, Sequence[Sequence[int]]]:
    """Names and colours: of the checkpoint's data set, else of the config's, else made up."""
    for meta in candidates(config, checkpoint):
        names, colors = meta.get("classes"), meta.get("palette")
        if names and len(names) == count:
            return list(names), list(colors) if colors and len(colors) == count else palette_of(None, count)
    return None, palette_of(None, count)


def candidates(config: Config, checkpoint: str | Path) -> Iterator[dict[str, Any]]:
    yield (load(checkpoint).get("meta") or {}).get("dataset_meta") or {}
    dataset = (config.get("test_dataloader") or {}).get("dataset") or {}
    yield dataset.get("metainfo") or {}
