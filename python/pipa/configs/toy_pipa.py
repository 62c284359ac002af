"""Toy pair, PiPa: self-training with ClassMix, pixel contrast and patch contrast."""

_base_ = ["./_base_/toy.py"]

# Weights of the two contrasts (paper); toy_self_training.py sets them to 0.
pipa = dict(pixel_weight=0.1, patch_weight=0.1)

custom_hooks = [
    dict(
        type="PipaHook",
        target_dataloader={{_base_.target_dataloader}},
        # A teacher of 0.999 looks back 1000 iterations, which is the whole training here.
        alpha=0.99,
        threshold=0.9,
        # The network starts from nothing: there are no ImageNet features to stay near.
        feature_distance_weight=0.0,
        patch_warmup=200,
        # Two thirds of the crop's height, half of its width.
        patch_size=(_base_.crop_size[0] * 2 // 3 // 8 * 8, _base_.crop_size[1] // 2),
        patch_iou=(0.2, 1.0),
        pixel_dim=64,
        patch_dim=64,
        projection_hidden=64,
        gradient_interval=100,
    ),
]
