# IDDA (rendered, labelled) -> CamVid (real, unlabelled), 11 classes, on a small network that trains on a CPU.
#
# Layout below data_root:   classes.json
#                           source/{images,labels,lists}     lists/train.txt
#                           target/{images,labels,lists}     lists/{train,val,test}.txt
# Give the folder with `--cfg-options data_root=FOLDER` or in the environment variable PIPA_DATA (pipa.mmseg.run.config
# says why both reach the data sets).
data_root = "{{$PIPA_DATA:data/idda_to_camvid}}"
default_scope = "mmseg"
custom_imports = dict(imports=["pipa.mmseg"])

# -- images ------------------------------------------------------------------------------------------------------------
# Two thirds of CamVid's 480x360: a third of a second of one core per iteration. Predictions are resized to the labels,
# which keep their size. IDDA's 720x480 at half its size shows streets at about the same scale; up to its full size, a
# crop around a sign or a pedestrian holds enough pixels of it to learn from.
source_scale, source_ratio, target_scale = (360, 240), (1.0, 2.0), (320, 240)
# About half of an image: small enough for two images per batch on one core, large enough for road and sky in one crop.
crop_size = (160, 208)

source_pipeline = [
    dict(type="LoadImage"),
    dict(type="LoadLabel"),
    dict(type="RandomResize", scale=source_scale, ratio_range=source_ratio, keep_ratio=True),
    # cat_max_ratio: not a whole crop of road or sky.
    dict(type="SyncCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
target_pipeline = [
    dict(type="LoadImage"),
    dict(type="Resize", scale=target_scale, keep_ratio=True),
    dict(type="SyncCrop", crop_size=crop_size),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackUnlabelled"),
]
test_pipeline = [
    dict(type="LoadImage"),
    dict(type="Resize", scale=target_scale, keep_ratio=True),
    dict(type="LoadLabel"),
    dict(type="PackSegInputs"),
]

# -- data --------------------------------------------------------------------------------------------------------------
source = dict(
    type="FolderDataset", data_root=f"{data_root}/source", classes=f"{data_root}/classes.json", img_suffix=".jpg"
)
target = dict(
    type="FolderDataset", data_root=f"{data_root}/target", classes=f"{data_root}/classes.json", img_suffix=".jpg"
)
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DrawSampler"),
    dataset=dict(
        type="RareClassSampling",
        # SignSymbol, Pedestrian and Bicyclist are 0.1-0.2 % of IDDA's pixels: without this they stay at an IoU of 0.
        temperature=0.01,
        # Pixels of the class in the stored label: 0.2 % of the image, as DAFormer's 3000 of 2 million.
        min_pixels=800,
        # The crop must keep 200 of them, 0.6 % of it, as DAFormer's 1500 of 512x512.
        min_crop_ratio=0.25,
        dataset=dict(**source, list_file="lists/train.txt", pipeline=source_pipeline),
    ),
)
# For PipaHook; the source-only training does not read it.
target_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DrawSampler", stream=1),  # own random numbers, not the source's
    dataset=dict(**target, list_file="lists/train.txt", unlabelled=True, pipeline=target_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**target, list_file="lists/val.txt", test_mode=True, pipeline=test_pipeline),
)
# Look at it once, with the final checkpoint: everything is chosen on val.
test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**target, list_file="lists/test.txt", test_mode=True, pipeline=test_pipeline),
)
val_evaluator = test_evaluator = dict(type="DomainIoUMetric", iou_metrics=["mIoU"])

# -- network -----------------------------------------------------------------------------------------------------------
model = dict(
    type="EncoderDecoder",
    # What EfficientNet-Lite0's ImageNet weights were trained with.
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[127.0] * 3,
        std=[128.0] * 3,
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=crop_size,
    ),
    # norm_eval: two crops per batch are too few for the statistics of 16 blocks, and source, mixed and target passes
    # would each pull them their own way.
    backbone=dict(type="EfficientNetLite", pretrained=True, norm_eval=True),
    decode_head=dict(
        type="DAFormerHead",
        in_channels=[24, 40, 112, 320],
        channels=32,  # DAFormer: 256; the head must not cost more than this encoder
        dropout_ratio=0.1,
        num_classes=11,
        norm_cfg=dict(type="BN"),
        decoder_params=dict(embed_dims=32, fusion_cfg="sepaspp"),
        loss_decode=dict(type="CrossEntropyLoss", loss_weight=1.0),
    ),
    test_cfg=dict(mode="whole"),
)

# -- schedule ----------------------------------------------------------------------------------------------------------
optim_wrapper = dict(
    type="OptimWrapper",
    # DAFormer's 6e-5 is for a transformer and 40,000 iterations; a small convolutional net in a short run takes more.
    optimizer=dict(type="AdamW", lr=2e-4, betas=(0.9, 0.999), weight_decay=0.01, fused=True),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        # New layers start from nothing, the encoder from ImageNet.
        custom_keys={"decode_head": dict(lr_mult=10.0), "pipa_heads": dict(lr_mult=10.0)},
    ),
)
# The source alone gains little after the first thousands; pseudo-labels need the rest.
iterations = 6000
warmup_iters = min(100, iterations // 2)
train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_interval=500)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=max(1, warmup_iters)),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=warmup_iters, end=iterations),
]
randomness = dict(seed=0)
env_cfg = dict(cudnn_benchmark=True)
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="SafeCheckpointHook", interval=500, max_keep_ckpts=2),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
log_processor = dict(by_epoch=False, window_size=50)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
