"""Images, and what is cut out of them: both data sets at their own size."""

# Objects have four times the pixels of half the scale, so a crop must keep four times as many of a rare class.
min_crop_ratio = 2.0

source_pipeline = [
    dict(type="LoadImage"),
    dict(type="LoadLabel"),
    # A crop of which one class fills more than 3/4 teaches little: up to ten others are tried.
    dict(type="SyncCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
target_pipeline = [
    dict(type="LoadImage"),
    # No bonnet in these images; at the border predictions lack context. Twice the margins of half the scale (ours).
    dict(type="PseudoMargins", top=30, bottom=30, left=30, right=30),
    dict(type="SyncCrop", crop_size=crop_size),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackUnlabelled"),
]
test_pipeline = [dict(type="LoadImage"), dict(type="LoadLabel"), dict(type="PackSegInputs")]
