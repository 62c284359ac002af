"""Images, and what is cut out of them: half the scale of Cityscapes."""

# Width, height. About the scale that objects have in the target: GTA5 (1914 x 1052) becomes 1280 x 704.
source_scale = (1280, 720)
# Crops are as high as the target's images.
target_scale = (2 * crop_size[0], crop_size[0])
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
    # Rows whose pseudo-labels do not count: lens and bonnet of the car. Crops are as high as the image here, so these
    # are the pseudo_weight_ignore_top and _bottom that DAFormer published; with DeepLab-v2 they are ours.
    dict(type="PseudoMargins", top=15, bottom=120),
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
