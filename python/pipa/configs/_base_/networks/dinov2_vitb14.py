"""DINOv2 ViT-B/14 under DAFormer's head, trained as in VFM-UDA++ (ICCVW 2025).

Head, neck, images and rare class sampling are ours: published figures have another decode head.
"""
# title: DINOv2 ViT-B/14
# pipelines: full
# sampling: rare_classes
# schedule: adamw_layers
# self_training: self_training_tokens
# domains: gta2cs
# methods: source_only self_training pipa

# What is trained of the encoder: "full"; "lora", adapters beside its attention (less memory for the optimiser); or
# "frozen", where the contrasts of PiPa move the projection heads alone.
encoder = "full"
# Side of a patch in pixels: crops are multiples of it.
token = 14
# The recipe's 1024, in whole patches. Height, width.
crop_size = (1024 // token * token, 1024 // token * token)
# The two crops of the patch contrast: about 720 of 1024, PiPa's best, in whole patches (ours: nobody has published PiPa
# on this encoder).
patch_size = tuple(side * 720 // 1024 // token * token for side in crop_size)

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
        type="ViTPyramid",
        model_name="vit_base_patch14_dinov2",
        encoder=encoder,
        # Four maps at 1/14 of the image, as they are: contrasts and feature distance see the encoder's own features.
        pyramid=False,
        # The released file, Apache-2.0; dinov2_vitb14_reg4_pretrain.pth goes with vit_base_patch14_reg4_dinov2.
        init_cfg=dict(type="Pretrained", checkpoint="{{$PIPA_PRETRAINED:pretrained}}/dinov2_vitb14_pretrain.pth"),
    ),
    # Four, two, one and half times the resolution, for a head that expects a pyramid.
    neck=dict(type="Feature2Pyramid", embed_dim=768, norm_cfg=dict(type="BN", requires_grad=True)),
    decode_head=dict(
        type="DAFormerHead",
        in_channels=(768, 768, 768, 768),
        channels=256,
        dropout_ratio=0.1,
        # The Cityscapes classes.
        num_classes=19,
        norm_cfg=dict(type="BN", requires_grad=True),
        align_corners=False,
        decoder_params=dict(embed_dims=256, fusion_cfg="sepaspp"),
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    # Windows of the training's size, half overlapping.
    test_cfg=dict(mode="slide", crop_size=crop_size, stride=tuple(side // 2 for side in crop_size)),
)
