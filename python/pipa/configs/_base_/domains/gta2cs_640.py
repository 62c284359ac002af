"""GTA5 -> Cityscapes, crops of 640 pixels. Labels as train ids: `pipa convert gta`, `pipa convert cityscapes`."""

# PIPA_DATA=FOLDER moves all data sets.
data_root = "{{$PIPA_DATA:data}}"

source_pipeline = [
    dict(type="LoadImage"),
    dict(type="LoadLabel"),
    # About the scale that objects have in the target: GTA5 (1914 x 1052) becomes 1280 x 704.
    dict(type="Resize", scale=(1280, 720), keep_ratio=True),
    # A crop of which one class fills more than 3/4 teaches little: up to ten others are tried.
    dict(type="SyncCrop", crop_size=(640, 640), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
target_pipeline = [
    dict(type="LoadImage"),
    dict(type="Resize", scale=(1280, 640), keep_ratio=True),
    # Rows whose pseudo-labels do not count: lens and bonnet of the car. Crops are as high as the image here, so these
    # are the published pseudo_weight_ignore_top and _bottom.
    dict(type="PseudoMargins", top=15, bottom=120),
    dict(type="SyncCrop", crop_size=(640, 640)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackUnlabelled"),
]
test_pipeline = [
    dict(type="LoadImage"),
    dict(type="Resize", scale=(1280, 640), keep_ratio=True),
    # After resizing: predictions are brought back to the label's size.
    dict(type="LoadLabel"),
    dict(type="PackSegInputs"),
]

train_dataloader = dict(
    # Two source and two target images: what fits beside teacher and ImageNet model, and what was published.
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DrawSampler"),
    dataset=dict(
        type="RareClassSampling",
        # P(c) = softmax((1 - f_c) / T): 0.01 makes the rarest classes as likely as anything (DAFormer, section 3.3).
        temperature=0.01,
        # An image is drawn for a class it shows more than so many pixels of, ...
        min_pixels=3000,
        # ... and the crop keeps half of that.
        min_crop_ratio=0.5,
        dataset=dict(type="GTADataset", data_root=data_root + "/gta", pipeline=source_pipeline),
    ),
)
target_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    # Its own stream of random numbers.
    sampler=dict(type="DrawSampler", stream=1),
    dataset=dict(
        type="CityscapesDomainDataset",
        data_root=data_root + "/cityscapes",
        split="train",
        # The labels are not looked for.
        unlabelled=True,
        pipeline=target_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CityscapesDomainDataset", data_root=data_root + "/cityscapes", split="val", pipeline=test_pipeline
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="DomainIoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
