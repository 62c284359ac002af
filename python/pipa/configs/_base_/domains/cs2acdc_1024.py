"""Cityscapes -> ACDC (fog, night, rain, snow), crops of 1024 pixels, both data sets at their own size."""

_base_ = ["cs2acdc_640.py"]

source_pipeline = [
    dict(type="LoadImage"),
    dict(type="LoadLabel"),
    dict(type="SyncCrop", crop_size=(1024, 1024), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
target_pipeline = [
    dict(type="LoadImage"),
    # Twice those of half the scale.
    dict(type="PseudoMargins", top=30, bottom=30, left=30, right=30),
    dict(type="SyncCrop", crop_size=(1024, 1024)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackUnlabelled"),
]
test_pipeline = [dict(type="LoadImage"), dict(type="LoadLabel"), dict(type="PackSegInputs")]

# See gta2cs_1024.py.
train_dataloader = dict(dataset=dict(min_crop_ratio=2.0, dataset=dict(pipeline=source_pipeline)))
target_dataloader = dict(dataset=dict(pipeline=target_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
