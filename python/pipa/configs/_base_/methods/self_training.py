"""Self-training as DAFormer and HRDA published it: teacher, pseudo-labels, ClassMix, ImageNet feature distance.

Every setting of the iteration is in docs/settings.md. Here are those that define the published method.
"""
# title: self-training as published

# Takes its settings from `pipa` and its target images from `target_dataloader`.
custom_hooks = [dict(type="PipaHook")]

pipa = dict(
    # Teacher: mean of the student over the last thousand iterations.
    alpha=0.999,
    # A pixel of the target is sure from this probability on; the share of sure pixels weighs the pseudo-labels.
    threshold=0.968,
    # Cross entropy on mixed images counts as much as on source images.
    mix_weight=1.0,
    # As released: divided by all pixels, ignored ones too, which the learning rate was tuned with.
    loss_average="all",
    # Features stay near ImageNet's, which knows these classes from real photographs, ...
    feature_distance_weight=0.005,
    # ... for things only (light, sign, person, rider, car, truck, bus, train, motorcycle, bicycle): ImageNet has no
    # labels for road or sky.
    feature_distance_classes=[6, 7, 11, 12, 13, 14, 15, 16, 17, 18],
    # A cell of the feature map counts if three quarters of it are one class.
    feature_distance_min_ratio=0.75,
    # Colour jitter and blur of mixed images.
    jitter_strength=0.2,
    jitter_probability=0.8,
    blur_probability=0.5,
    # Contrast (PiPa) and masked consistency (MIC): off, unless a method below switches them on.
    pixel_weight=0.0,
    patch_weight=0.0,
    mask_weight=0.0,
)
