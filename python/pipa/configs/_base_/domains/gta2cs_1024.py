"""GTA5 -> Cityscapes, crops of 1024 pixels at twice the scale of the 640 ones."""

_base_ = ["gta2cs_640.py"]

source_pipeline = [
    dict(type="LoadImage"),
    dict(type="LoadLabel"),
    # About the scale of full Cityscapes images: 2560 x 1407.
    dict(type="Resize", scale=(2560, 1440), keep_ratio=True),
    dict(type="SyncCrop", crop_size=(1024, 1024), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
target_pipeline = [
    dict(type="LoadImage"),  # 2048 x 1024 as it is
    # Twice the margins of half the scale; at the sides predictions lack context.
    dict(type="PseudoMargins", top=30, bottom=240, left=30, right=30),
    dict(type="SyncCrop", crop_size=(1024, 1024)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackUnlabelled"),
]
test_pipeline = [dict(type="LoadImage"), dict(type="LoadLabel"), dict(type="PackSegInputs")]

# min_crop_ratio 2: objects have four times the pixels of the 640 configs, so a crop must keep four times as many.
train_dataloader = dict(dataset=dict(min_crop_ratio=2.0, dataset=dict(pipeline=source_pipeline)))
target_dataloader = dict(dataset=dict(pipeline=target_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
