"""PiPa: self-training, pixel contrast and patch contrast (Chen et al., ACM Multimedia 2023)."""

_base_ = ["pixel.py"]

# The comments on the patch settings are in patch.py.
pipa = dict(
    patch_weight=0.1,
    patch_temperature=0.1,
    patch_warmup=10000,
    patch_size=(720, 720),
    patch_iou=(0.1, 1.0),
    patch_dim=128,
)
