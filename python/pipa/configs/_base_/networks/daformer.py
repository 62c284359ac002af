"""DAFormer: Mix Transformer B5 and the context-aware fusion head (Hoyer et al., CVPR 2022)."""
# title: DAFormer
# pipelines: half
# sampling: rare_classes
# schedule: adamw

# PiPa's DAFormer trains on 640 pixels (DAFormer's paper: 512): a patch pair needs room for two views. Height, width.
crop_size = (640, 640)
# The two crops of the patch contrast: 0.7 of the crop, as 720 is of 1024 (ours); multiples of the encoder's stride, 32.
patch_size = tuple(side * 7 // 10 // 32 * 32 for side in crop_size)

model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        # ImageNet's mean and deviation: what the encoder was pretrained with.
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=crop_size,
    ),
    backbone=dict(
        type="MiT",
        # The published figures are all of B5; b0 to b4 train faster. Another encoder: see docs/migration.md.
        arch="b5",
        # As in SegFormer.
        drop_path_rate=0.1,
        # ImageNet weights of SegFormer's authors, NVIDIA licence: non-commercial use only. The released file and the
        # converted one both load; a missing one is an error that says where to get it.
        init_cfg=dict(type="Pretrained", checkpoint="{{$PIPA_PRETRAINED:pretrained}}/mit_b5.pth"),
    ),
    decode_head=dict(
        type="DAFormerHead",
        # Channels of MiT-B1 to B5; B0 has (32, 64, 160, 256).
        in_channels=(64, 128, 320, 512),
        channels=256,
        dropout_ratio=0.1,
        # The Cityscapes classes.
        num_classes=19,
        # Statistics per process, as published: images of two domains pass one after the other.
        norm_cfg=dict(type="BN", requires_grad=True),
        align_corners=False,
        # Depthwise separable ASPP over all four stages: context without the weights of a full one.
        decoder_params=dict(embed_dims=256, fusion_cfg="sepaspp"),
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    # One pass over the whole image.
    test_cfg=dict(mode="whole"),
)
