"""One shipped config of each family of mmsegmentation, with its widths divided, so that it trains in a second.

Not here: CCNet, PSANet, PointRend (compiled operations of mmcv), MaskFormer, Mask2Former, SAN, VPD (other packages),
MobileNetV3 with LR-ASPP (crops of 400 pixels and more).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import mmseg
from mmengine.config import Config

ROOT = Path(mmseg.__file__).parent / ".mim" / "configs"
CLASSES = 5
SIDE = 64

# Numbers under these keys are widths.
WIDTHS = {
    "base_channels",
    "c1_channels",
    "c1_in_channels",
    "channels",
    "context_channels",
    "downsample_dw_channels",
    "ema_channels",
    "embed_dim",
    "embed_dims",
    "feat_channels",
    "feedforward_channels",
    "fusion_out_channels",
    "global_block_channels",
    "global_in_channels",
    "global_out_channels",
    "ham_channels",
    "higher_in_channels",
    "in_channels",
    "isa_channels",
    "last_in_channels",
    "lower_in_channels",
    "mid_channels",
    "num_channels",
    "ocr_channels",
    "out_channels",
    "pam_channels",
    "post_process_channels",
    "stem_channels",
}


def divide(value: Any, by: int) -> Any:
    """Widths below `value` divided; input images keep their three channels."""
    if isinstance(value, dict):
        return {k: _width(v, by) if k in WIDTHS else divide(v, by) for k, v in value.items()}
    return type(value)(divide(v, by) for v in value) if isinstance(value, (list, tuple)) else value


def _width(value: Any, by: int) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_width(v, by) for v in value)
    return max(value // by, 1) if isinstance(value, int) and value > 3 else value


def plain(value: Any, classes: int) -> Any:
    """Without pretrained weights, noise and processes; the losses stay."""
    if isinstance(value, dict):
        found = {k: plain(v, classes) for k, v in value.items() if k not in ("init_cfg", "pretrained")}
        if found.get("type") == "SyncBN":
            found["type"] = "BN"
        for noise in ("dropout_ratio", "drop_path_rate", "drop_rate", "attn_drop_rate", "dropout"):
            if isinstance(found.get(noise), float):
                found[noise] = 0.0 if found["type"] != "ANNHead" else 1e-9  # which has no way without dropout
        if "num_classes" in found and found.get("type") != "STDCHead":
            found["num_classes"] = classes
        if isinstance(found.get("class_weight"), list):
            found["class_weight"] = [0.5 + 0.25 * i for i in range(classes)]
        return found
    return type(value)(plain(v, classes) for v in value) if isinstance(value, (list, tuple)) else value


def merge(model: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(model.get(key), dict):
            merge(model[key], value)
        elif isinstance(value, dict) and isinstance(model.get(key), list):
            for item in model[key]:
                merge(item, value)
        else:
            model[key] = value
    return model


def model_config(file: str, by: int, change: dict[str, Any], classes: int = CLASSES) -> dict[str, Any]:
    """The model of a shipped config, small; `change` is merged in afterwards."""
    model = plain(Config.fromfile(ROOT / file).model.to_dict(), classes)
    model.pop("data_preprocessor", None)
    model = merge(divide(model, by), copy.deepcopy(change))
    return {**model, "test_cfg": {"mode": "whole"}}


def small(name: str, classes: int = CLASSES) -> dict[str, Any]:
    """The model of a family."""
    file, by, change = FAMILIES[name]
    return model_config(file, by, change, classes)


R50: dict[str, Any] = {"backbone": {"base_channels": 8, "stem_channels": 8}}
# name: (config, divisor, changes)
FAMILIES: dict[str, tuple[str, int, dict[str, Any]]] = {
    name: (f"{name}/{file}", 8, R50)
    for name, file in {
        "ann": "ann_r50-d8_4xb4-80k_ade20k-512x512.py",
        "apcnet": "apcnet_r50-d8_4xb4-80k_ade20k-512x512.py",
        "danet": "danet_r50-d8_4xb4-80k_ade20k-512x512.py",
        "deeplabv3": "deeplabv3_r50-d8_4xb4-80k_ade20k-512x512.py",
        "dmnet": "dmnet_r50-d8_4xb4-80k_ade20k-512x512.py",
        "dnlnet": "dnl_r50-d8_4xb4-80k_ade20k-512x512.py",
        "emanet": "emanet_r50-d8_4xb2-80k_cityscapes-769x769.py",
        "encnet": "encnet_r50-d8_4xb4-80k_ade20k-512x512.py",
        "fastfcn": "fastfcn_r50-d32_jpu_enc_4xb4-80k_ade20k-512x512.py",
        "fcn": "fcn_r50-d8_4xb4-80k_ade20k-512x512.py",
        "gcnet": "gcnet_r50-d8_4xb4-80k_ade20k-512x512.py",
        "isanet": "isanet_r50-d8_4xb4-80k_ade20k-512x512.py",
        "knet": "knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py",
        "nonlocal_net": "nonlocal_r50-d8_4xb4-80k_ade20k-512x512.py",
        "sem_fpn": "fpn_r50_4xb4-160k_ade20k-512x512.py",
        "upernet": "upernet_r50_4xb4-80k_ade20k-512x512.py",
        "pspnet": "pspnet_r50-d8_4xb4-80k_ade20k-512x512.py",
    }.items()
}
SQUARE: dict[str, Any] = {"backbone": {"img_size": (SIDE, SIDE)}}
FAMILIES |= {
    name: (f"{name}/{file}", by, change)
    for name, (file, by, change) in {
        "beit": ("beit-base_upernet_8xb2-160k_ade20k-640x640.py", 8, SQUARE),
        "bisenetv1": ("bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py", 1, {}),
        "bisenetv2": ("bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py", 1, {}),
        "cgnet": ("cgnet_fcn_4xb4-60k_cityscapes-680x680.py", 1, {}),
        "convnext": (
            "convnext-base_upernet_8xb2-amp-160k_ade20k-512x512.py",
            8,
            {"backbone": {"arch": {"depths": [1, 1, 1, 1], "channels": [16, 32, 64, 128]}}},
        ),
        "ddrnet": ("ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py", 8, {}),
        "deeplabv3plus": ("deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py", 8, R50),
        "dpt": ("dpt_vit-b16_8xb2-160k_ade20k-512x512.py", 8, SQUARE),
        "erfnet": ("erfnet_fcn_4xb4-160k_cityscapes-512x1024.py", 1, {}),
        "fastscnn": ("fast_scnn_8xb4-160k_cityscapes-512x1024.py", 8, {}),
        "hrnet": ("fcn_hr18_4xb4-80k_isaid-896x896.py", 8, {}),
        "icnet": ("icnet_r18-d8_4xb2-80k_cityscapes-832x832.py", 8, {}),
        "mae": ("mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py", 8, SQUARE),
        "mobilenet_v2": ("mobilenet-v2-d8_fcn_4xb4-160k_ade20k-512x512.py", 1, {}),
        "ocrnet": ("ocrnet_hr18_4xb4-80k_ade20k-512x512.py", 8, {}),
        "pidnet": ("pidnet-s_2xb6-120k_1024x1024-cityscapes.py", 8, {}),
        "poolformer": (
            "fpn_poolformer_s12_8xb4-40k_ade20k-512x512.py",
            8,
            {
                "backbone": {
                    "arch": {
                        "layers": [1, 1, 1, 1],
                        "embed_dims": [8, 16, 40, 64],
                        "mlp_ratios": [4, 4, 4, 4],
                        "layer_scale_init_value": 1e-5,
                    }
                }
            },
        ),
        "resnest": (
            "resnest_s101-d8_fcn_4xb4-160k_ade20k-512x512.py",
            8,
            {"backbone": {"depth": 50, "base_channels": 8, "stem_channels": 16}},
        ),
        "segformer": ("segformer_mit-b0_8xb2-160k_ade20k-512x512.py", 8, {}),
        "segmenter": ("segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py", 8, SQUARE),
        "segnext": (  # drawn anew for each image, the bases are noise in evaluation mode too
            "segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py",
            8,
            {"decode_head": {"ham_kwargs": {"rand_init": False}}},
        ),
        "setr": ("setr_vit-l_pup_8xb2-160k_ade20k-512x512.py", 8, SQUARE),
        "stdc": ("stdc1_4xb12-80k_cityscapes-512x1024.py", 8, {}),
        "swin": ("swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py", 8, {}),
        "twins": ("twins_svt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512.py", 8, {}),
        "unet": ("unet-s5-d16_fcn_4xb4-40k_drive-64x64.py", 8, {}),
        "vit": ("vit_deit-s16_upernet_8xb2-80k_ade20k-512x512.py", 8, SQUARE),
    }.items()
}
