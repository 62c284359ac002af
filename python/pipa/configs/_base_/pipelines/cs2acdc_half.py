"""Images, and what is cut out of them: half the scale of Cityscapes. Dark Zurich's images have the size of ACDC's."""

# Width, height. The share of the original size that GTA5 -> Cityscapes gives Cityscapes.
source_scale = (2 * crop_size[0], crop_size[0])
# 1920 x 1080 to the crop's height.
target_scale = (round(crop_size[0] * 1920 / 1080), crop_size[0])
# The crop keeps half of what rare class sampling asks an image for.
min_crop_ratio = 0.5

source_pipeline = [
    dict(type="LoadImage"),
    dict(type="LoadLabel"),
    dict(type="Resize", scale=source_scale, keep_ratio=True),
    # A crop of which one class fills more than 3/4 teaches little: up to ten others are tried.
    dict(type="SyncCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
target_pipeline = [
    dict(type="LoadImage"),
    dict(type="Resize", scale=target_scale, keep_ratio=True),
    # No bonnet in these images; at the border predictions lack context. (Ours: there is no published figure at 640.)
    dict(type="PseudoMargins", top=15, bottom=15, left=15, right=15),
    dict(type="SyncCrop", crop_size=crop_size),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackUnlabelled"),
]
test_pipeline = [
    dict(type="LoadImage"),
    dict(type="Resize", scale=target_scale, keep_ratio=True),
    # After resizing: predictions are brought back to the label's size.
    dict(type="LoadLabel"),
    dict(type="PackSegInputs"),
]
