"""SYNTHIA-RAND-CITYSCAPES -> Cityscapes, crops of 1024 pixels at twice the scale of the 640 ones."""

_base_ = ["gta2cs_1024.py"]

source_pipeline = [
    dict(type="LoadImage"),
    dict(type="LoadLabel"),
    # Twice its own size, 1280 x 760: about the scale of full Cityscapes images.
    dict(type="Resize", scale=(2560, 1520), keep_ratio=True),
    dict(type="SyncCrop", crop_size=(1024, 1024), cat_max_ratio=0.75),
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
# See synthia2cs_640.py.
SYNTHIA_16 = [c for c in range(19) if c not in (9, 14, 16)]
SYNTHIA_13 = [c for c in SYNTHIA_16 if c not in (3, 4, 5)]
val_evaluator = dict(subsets=dict(mIoU16=SYNTHIA_16, mIoU13=SYNTHIA_13))
test_evaluator = dict(subsets=dict(mIoU16=SYNTHIA_16, mIoU13=SYNTHIA_13))
