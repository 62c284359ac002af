"""Cityscapes -> ACDC (fog, night, rain, snow), crops of 640 pixels. Labels: `pipa convert cityscapes`."""

_base_ = ["gta2cs_640.py"]

source_pipeline = [
    dict(type="LoadImage"),
    dict(type="LoadLabel"),
    # The share of the original size that GTA5 -> Cityscapes gives Cityscapes.
    dict(type="Resize", scale=(1280, 640), keep_ratio=True),
    dict(type="SyncCrop", crop_size=(640, 640), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
target_pipeline = [
    dict(type="LoadImage"),
    # 1920 x 1080 to the crop's height.
    dict(type="Resize", scale=(1138, 640), keep_ratio=True),
    # No bonnet in these images; at the border predictions lack context. (Ours: there is no published figure at 640.)
    dict(type="PseudoMargins", top=15, bottom=15, left=15, right=15),
    dict(type="SyncCrop", crop_size=(640, 640)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackUnlabelled"),
]
test_pipeline = [
    dict(type="LoadImage"),
    dict(type="Resize", scale=(1138, 640), keep_ratio=True),
    dict(type="LoadLabel"),
    dict(type="PackSegInputs"),
]

train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            _delete_=True,
            type="CityscapesDomainDataset",
            data_root=_base_.data_root + "/cityscapes",
            split="train",
            pipeline=source_pipeline,
        )
    )
)
acdc = _base_.data_root + "/acdc"
target_dataloader = dict(
    dataset=dict(
        _delete_=True, type="ACDCDataset", data_root=acdc, split="train", unlabelled=True, pipeline=target_pipeline
    )
)
val_dataloader = dict(
    dataset=dict(_delete_=True, type="ACDCDataset", data_root=acdc, split="val", pipeline=test_pipeline)
)
test_dataloader = dict(
    dataset=dict(_delete_=True, type="ACDCDataset", data_root=acdc, split="val", pipeline=test_pipeline)
)
