"""DACS: self-training on class-mixed images (Tranheden et al., WACV 2021), with its own settings.

Every setting of the iteration is in docs/settings.md. Here are those that define the published method.
"""
# title: DACS (self-training on class-mixed images)
# networks: deeplabv2_r101

# Takes its settings from `pipa` and its target images from `target_dataloader`.
custom_hooks = [dict(type="PipaHook")]

pipa = dict(
    # Teacher: mean of the student over the last hundred iterations.
    alpha=0.99,
    # A pixel of the target is sure from this probability on; the share of sure pixels weighs the pseudo-labels.
    threshold=0.968,
    # Cross entropy on mixed images counts as much as on source images.
    mix_weight=1.0,
    # As released: divided by all pixels, ignored ones too, which the learning rate was tuned with.
    loss_average="all",
    # Colour jitter, as strong as DAFormer's, and blur of mixed images.
    jitter_strength=0.2,
    jitter_probability=0.8,
    blur_probability=0.5,
    # DAFormer's, and not in DACS: features stay near ImageNet's.
    feature_distance_weight=0.0,
    # Contrast (PiPa) and masked consistency (MIC): off, unless a method below switches them on.
    pixel_weight=0.0,
    patch_weight=0.0,
    mask_weight=0.0,
)
