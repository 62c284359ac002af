"""Embedded domain pair, small DAFormer: what the toy trainings share. Sizes suit two CPU cores."""

custom_imports = dict(imports=["pipa.mmseg"])
default_scope = "mmseg"
# Folder written by `pipa.toy.write`; another one is given as PIPA_DATA=FOLDER.
data_root = "{{$PIPA_DATA:data/toy}}"
classes = data_root + "/classes.json"
# Small crops keep an iteration near 0.1 s; they still show road, pavement, cars and sky together.
crop_size = (96, 128)

model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=crop_size,
    ),
    # Trained from nothing, since no ImageNet weights of this size exist: there a small ResNet learns much faster than a
    # transformer (MiT of the same cost reached 42 mIoU and no pole, sign or person).
    backbone=dict(
        type="ResNetV1c",
        depth=18,
        base_channels=16,
        stem_channels=16,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        style="pytorch",
    ),
    decode_head=dict(
        type="DAFormerHead",
        in_channels=(16, 32, 64, 128),
        channels=48,
        dropout_ratio=0.1,
        num_classes=9,
        norm_cfg=dict(type="BN", requires_grad=True),
        align_corners=False,
        decoder_params=dict(embed_dims=48, fusion_cfg="sepaspp"),
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)

labelled_pipeline = [
    dict(type="LoadImage"),
    dict(type="LoadLabel"),
    dict(type="SyncCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
unlabelled_pipeline = [
    dict(type="LoadImage"),
    dict(type="SyncCrop", crop_size=crop_size),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackUnlabelled"),
]
test_pipeline = [dict(type="LoadImage"), dict(type="LoadLabel"), dict(type="PackSegInputs")]

source_dataset = dict(
    type="FolderDataset",
    data_root=data_root + "/source",
    images="leftImg8bit/train",
    labels="gtFine/train",
    img_suffix="_leftImg8bit.png",
    label_suffix="_gtFine_labelTrainIds.png",
    classes=classes,
    pipeline=labelled_pipeline,
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="DrawSampler"),
    # Poles, signs and people are rare here as on a real street: without this they are hardly ever in a crop.
    dataset=dict(type="RareClassSampling", dataset=source_dataset, temperature=0.1, min_pixels=60, min_crop_ratio=0.5),
)
target_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="DrawSampler", stream=1),
    dataset=dict(
        type="FolderDataset",
        data_root=data_root + "/target",
        images="leftImg8bit/train",
        img_suffix="_leftImg8bit.png",
        classes=classes,
        unlabelled=True,
        pipeline=unlabelled_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="FolderDataset",
        data_root=data_root + "/target",
        images="leftImg8bit/val",
        labels="gtFine/val",
        img_suffix="_leftImg8bit.png",
        label_suffix="_gtFine_labelTrainIds.png",
        classes=classes,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="DomainIoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator

max_iters = 1000
warmup_iters = min(50, max_iters // 2)
optim_wrapper = dict(
    type="OptimWrapper",
    # Far above the published 6e-5: the network is small, starts from nothing and trains fifty times shorter.
    optimizer=dict(type="AdamW", lr=2e-3, betas=(0.9, 0.999), weight_decay=0.01),
    # No larger rate for the heads: that ratio of 10 is for a pretrained backbone; here both start from nothing.
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=max(1, warmup_iters)),
    dict(type="PolyLR", eta_min=0.0, power=1.0, begin=warmup_iters, end=max_iters, by_epoch=False),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=250)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="SafeCheckpointHook", interval=500, max_keep_ckpts=1),
)
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method="spawn", opencv_num_threads=0))
log_processor = dict(by_epoch=False, window_size=50)
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=0)
