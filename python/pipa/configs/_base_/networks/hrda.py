"""HRDA: DAFormer's network on context at half resolution and on a detail crop, fused by attention (ECCV 2022)."""
# title: HRDA
# over: daformer
# pipelines: full
# set: crop_size = (1024, 1024)  # Full resolution of Cityscapes: a crop covers the image's whole height.
# set: patch_size = tuple(side * 720 // 1024 // 8 * 8 for side in crop_size)  # 720 of 1024 is the paper's best.

half_crop = tuple(side // 2 for side in crop_size)
model.update(
    type="HRDAEncoderDecoder",
    # Context sees the crop at half its size, detail at full size.
    scales=(1, 0.5),
    # As many pixels as the scaled context has: both passes cost the same.
    hr_crop_size=half_crop,
    # Offsets on the cells of the context map (stride 4 at half resolution), so that both fuse without resampling.
    crop_coord_divisible=8,
    # The ImageNet features are compared at the resolution that ImageNet models know.
    feature_scale=0.5,
    # Pseudo-labels and tests slide the detail crop over the image, half overlapping: every pixel gets detail.
    hr_slide_inference=True,
    hr_slide_overlapping=True,
    # Windows of the training's size, all of an image in one pass.
    test_cfg=dict(mode="slide", batched_slide=True, crop_size=crop_size, stride=half_crop),
)
model["decode_head"].update(
    type="HRDAHead",
    # Context and detail share one head.
    single_scale_head="DAFormerHead",
    # One attention map per class: poles need detail where roads need context.
    attention_classwise=True,
    # The detail crop's own loss: without it the detail branch learns only where the attention already trusts it.
    hr_loss_weight=0.1,
)
