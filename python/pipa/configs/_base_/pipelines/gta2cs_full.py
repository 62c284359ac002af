"""Images, and what is cut out of them: the full scale of Cityscapes."""

# Width, height. About the scale of full Cityscapes images: GTA5 becomes 2560 x 1407.
source_scale = (2560, 1440)
# Objects have four times the pixels of half the scale, so a crop must keep four times as many of a rare class.
min_crop_ratio = 2.0

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
    dict(type="LoadImage"),  # 2048 x 1024 as it is
    # Rows whose pseudo-labels do not count: lens and bonnet of the car; at the sides predictions lack context.
    dict(type="PseudoMargins", top=30, bottom=240, left=30, right=30),
    dict(type="SyncCrop", crop_size=crop_size),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackUnlabelled"),
]
test_pipeline = [dict(type="LoadImage"), dict(type="LoadLabel"), dict(type="PackSegInputs")]
