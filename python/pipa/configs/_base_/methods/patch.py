"""Self-training and PiPa's patch contrast: one place seen in two crops has one feature (paper: +1.4 on DAFormer)."""
# title: self-training and patch contrast
# over: self_training

pipa.update(
    # beta of the paper (the released HRDA tree has 0.01, without saying why).
    patch_weight=0.1,
    patch_temperature=0.1,
    # Until then features and pseudo-labels are noise.
    patch_warmup=10000,
    patch_size=patch_size,
    # Two crops overlap by a tenth to all of their union: easy and hard pairs.
    patch_iou=(0.1, 1.0),
    # Channels of the projection (paper).
    patch_dim=128,
)
