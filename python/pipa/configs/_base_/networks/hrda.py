"""HRDA: DAFormer's network on context at half resolution and on a detail crop, fused by attention (ECCV 2022)."""

_base_ = ["daformer.py"]

model = dict(
    type="HRDAEncoderDecoder",
    # Full resolution of Cityscapes: a crop covers the image's whole height.
    data_preprocessor=dict(size=(1024, 1024)),
    # Context sees the crop at half its size, detail at full size.
    scales=(1, 0.5),
    # As many pixels as the scaled context has: both passes cost the same.
    hr_crop_size=(512, 512),
    # Offsets on the cells of the context map (stride 4 at half resolution), so that both fuse without resampling.
    crop_coord_divisible=8,
    # The ImageNet features are compared at the resolution that ImageNet models know.
    feature_scale=0.5,
    # Pseudo-labels and tests slide the detail crop over the image, half overlapping: every pixel gets detail.
    hr_slide_inference=True,
    hr_slide_overlapping=True,
    decode_head=dict(
        type="HRDAHead",
        # Context and detail share one head.
        single_scale_head="DAFormerHead",
        # One attention map per class: poles need detail where roads need context.
        attention_classwise=True,
        # The detail crop's own loss: without it the detail branch learns only where the attention already trusts it.
        hr_loss_weight=0.1,
    ),
    # Windows of the training's size, all of an image in one pass.
    test_cfg=dict(mode="slide", batched_slide=True, crop_size=(1024, 1024), stride=(512, 512)),
)
