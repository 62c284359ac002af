"""Self-training and PiPa's patch contrast: one place seen in two crops has one feature (paper: +1.4 on DAFormer)."""

_base_ = ["self_training.py"]

pipa = dict(
    # beta of the paper (the released HRDA tree has 0.01, without saying why).
    patch_weight=0.1,
    patch_temperature=0.1,
    # Until then features and pseudo-labels are noise.
    patch_warmup=10000,
    # The paper's best at crops of 1024.
    patch_size=(720, 720),
    # Two crops overlap by a tenth to all of their union: easy and hard pairs.
    patch_iou=(0.1, 1.0),
    # Channels of the projection (paper).
    patch_dim=128,
)
