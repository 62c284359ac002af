"""ProDA, stage 2: the network of stage 1 teaches the next one by its sure labels and its softmax.

Equations, and how this differs from the released code: docs/methods.md. The paper's student starts from self-supervised
weights, this one from stage 1 (ours).
"""
# title: ProDA, stage 2 (distillation from stage 1)
# networks: deeplabv2_r101
# set: crop_size = (512, 896)  # As in ProDA. Height, width.
# set: batch_size = 4  # As many source as target images, four of each: with two ProDA loses 2.6 points.
# set: lr = 1e-4  # ProDA's.
# set: weight_decay = 2e-4  # ProDA's.
# set: max_iters = 90000  # Ours: it is published in passes over the target, of 744 iterations each.
# set: load_from = "work_dirs/{domains}_{network}_proda/iter_90000.pth"  # Stage 1, where `pipa train`
#   leaves it: it starts this stage, and a fixed copy of it gives the labels.

# Takes its settings from `pipa` and its target images from `target_dataloader`.
custom_hooks = [dict(type="PipaHook")]

pipa = dict(
    # Hard labels of the stage before, which stays fixed; pixels that it is not sure of do not count.
    label_network="initial",
    label_weight="confident",
    threshold=0.95,
    # Plain cross entropy on a strong view of the target: the labels are good by now.
    target_weight=1.0,
    target_ce=1.0,
    target_rce=0.0,
    # Divergence from the softmax of the stage before.
    distillation_weight=1.0,
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
