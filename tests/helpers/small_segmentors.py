"""Shipped configs with small networks, and pictures as people have them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from PIL import Image

import tiny_vit

SCALE = (64, 48)
CROP, DETAIL = 64, 32


def shrink(config: Config) -> Config:
    """Small widths, windows and resizes; the kinds of layers, transforms and modes stay."""

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if str(value.get("type", "")).endswith("Resize") and "scale" in value:
                value["scale"] = SCALE
            value.pop("init_cfg", None)
            for inner in value.values():
                walk(inner)
        elif isinstance(value, (list, tuple)):
            for inner in value:
                walk(inner)

    walk(config._cfg_dict)
    model = config.model
    narrow(model)
    if model.backbone.get("pretrained"):
        model.backbone.pretrained = False
    if model.type == "HRDAEncoderDecoder":
        model.update(hr_crop_size=(DETAIL, DETAIL))
    if model.test_cfg.get("mode") == "slide":
        model.test_cfg.update(crop_size=(CROP, CROP), stride=(CROP // 2, CROP // 2))
    return config


def narrow(model: ConfigDict) -> None:
    """Few channels, and few layers where they can be chosen, of encoder and head."""
    backbone, head = model.backbone, model.decode_head
    channels: tuple[int, ...] = (8, 16, 40, 64)
    if backbone.type == "ResNet":  # DeepLab-v2's, with all of its layers
        backbone.update(base_channels=4, stem_channels=4)
        head.in_channels = 4 * 32
    elif backbone.type in ("MiT", "ViTPyramid"):
        if backbone.type == "MiT":
            backbone.update(arch=None, embed_dims=8, num_heads=(1, 2, 5, 8), num_layers=(1, 1, 1, 1))
        else:
            backbone.update(tiny_vit.SMALL)
            model.neck.embed_dim, channels = tiny_vit.DIM, (tiny_vit.DIM,) * 4
        head.update(in_channels=channels, channels=16)
        head.decoder_params.embed_dims = 16
    if model.type == "HRDAEncoderDecoder":
        head.attention_embed_dim = 8


def signature(config: Config) -> str:
    """What decides a prediction: configs of one signature predict alike."""
    return repr([plain(config.model), plain(config.test_dataloader.dataset.pipeline)])


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: plain(v) for k, v in sorted(value.items())}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def checkpoint(config: Config, path: Path, description: dict | None = None) -> Path:
    """Random weights whose predictions show several classes."""
    register_all_modules(init_default_scope=True)
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(copy.deepcopy(config.model.to_dict())))
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                torch.nn.init.normal_(module.bias, std=0.1)
    teacher = {k: v + 0.05 * torch.randn_like(v) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    teacher = {k: v.abs() if k.endswith("running_var") else v for k, v in teacher.items()}
    meta = {} if description is None else {"inference": description}
    torch.save({"state_dict": model.state_dict(), "pipa": {"teacher": teacher}, "meta": meta}, path)
    return path


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with areas of different colours and some noise, uint8 RGB."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (-(-height // 8), -(-width // 8), 3))
    picture = np.kron(blocks, np.ones((8, 8, 1)))[:height, :width] + random.normal(0, 8, (height, width, 3))
    return picture.clip(0, 255).astype(np.uint8)


def pictures(folder: Path) -> list[Path]:
    """JPEG, PNG, a JPEG that is to be turned, grey and RGBA PNG, all of different sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene(72, 100, 1)).save(folder / "a.jpg", quality=95)
    Image.fromarray(scene(70, 90, 2)).save(folder / "b.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(scene(66, 96, 3)).save(folder / "c.jpg", exif=turned, quality=95)
    Image.fromarray(scene(80, 68, 4)[:, :, 0]).save(folder / "d.png")
    rgba = np.dstack([scene(65, 77, 5), np.full((65, 77), 128, np.uint8)])
    Image.fromarray(rgba).save(folder / "e.png")
    return sorted(folder.iterdir())
