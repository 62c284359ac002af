"""SYNTHIA-RAND-CITYSCAPES -> Cityscapes, crops of 640 pixels. Labels: `pipa convert synthia`."""

_base_ = ["gta2cs_640.py"]

source_pipeline = [
    dict(type="LoadImage"),
    dict(type="LoadLabel"),
    # Its own size, 1280 x 760.
    dict(type="Resize", scale=(1280, 760), keep_ratio=True),
    dict(type="SyncCrop", crop_size=(640, 640), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            _delete_=True, type="SynthiaDataset", data_root=_base_.data_root + "/synthia", pipeline=source_pipeline
        )
    )
)
# SYNTHIA has no terrain, truck and train: published are the means over the other 16, and over 13 without wall, fence
# and pole. Pixels of the three classes still count as errors of the others, as in the published evaluation.
SYNTHIA_16 = [c for c in range(19) if c not in (9, 14, 16)]
SYNTHIA_13 = [c for c in SYNTHIA_16 if c not in (3, 4, 5)]
val_evaluator = dict(subsets=dict(mIoU16=SYNTHIA_16, mIoU13=SYNTHIA_13))
test_evaluator = dict(subsets=dict(mIoU16=SYNTHIA_16, mIoU13=SYNTHIA_13))
