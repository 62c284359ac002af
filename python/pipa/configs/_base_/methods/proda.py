"""ProDA, stage 1 (Zhang et al., CVPR 2021): prototypes correct the pseudo-labels while the network trains.

Equations, and how this differs from the released code: docs/methods.md.
"""
# title: ProDA, stage 1 (prototypes correct the pseudo-labels)
# networks: deeplabv2_r101
# set: crop_size = (512, 896)  # As in ProDA. Height, width.
# set: batch_size = 4  # As many source as target images, four of each: with two ProDA loses 2.6 points.
# set: lr = 1e-4  # ProDA's.
# set: weight_decay = 2e-4  # ProDA's.
# set: max_iters = 90000  # Ours: it is published in passes over the target, of 744 iterations each.
# set: load_from = "work_dirs/{domains}_{network}_source_only/iter_250000.pth"  # What stage 1 starts
#   from: in the paper an adversarial warm-up (43.3 on GTA5), here source-only
#   training. Without any it loses 2 to 3 points.

# Takes its settings from `pipa` and its target images from `target_dataloader`.
custom_hooks = [dict(type="PipaHook")]

pipa = dict(
    # Labels of the network that the stage starts from, which stays fixed ...
    label_network="initial",
    # ... corrected by the distances to the moving prototypes; no pixel is left out.
    prototype_labels=True,
    threshold=0.0,
    # tau is 1 in the paper, on features of 256 channels; distances grow with the root of the number of channels (the
    # root is ours).
    prototype_temperature=(model["decode_head"]["in_channels"] / 256) ** 0.5,
    prototype_momentum=0.9999,
    # A class with fewer pixels in the batch is left alone.
    prototype_min_pixels=10,
    # First values: class means over one pass through the 2975 images of the target, in batches of 4.
    prototype_batches=744,
    # Symmetric cross entropy on a strong view of the target: mostly the reverse one, which bears wrong labels.
    target_weight=1.0,
    target_ce=0.1,
    target_rce=1.0,
    # Weak and strong view keep one place among the prototypes.
    structure_weight=10.0,
    # Against collapse to one class.
    regularizer_weight=0.1,
    # The strong view: as DACS changes its mixed images (ours).
    jitter_strength=0.2,
    jitter_probability=0.8,
    blur_probability=0.5,
    # No mixed images, nothing of DAFormer, PiPa or MIC.
    mix_weight=0.0,
    feature_distance_weight=0.0,
    pixel_weight=0.0,
    patch_weight=0.0,
    mask_weight=0.0,
)
