"""DeepLab-v2 on ResNet-101, output stride 8 (Chen et al., TPAMI 2018): the network of DACS and ProDA."""
# title: DeepLab-v2
# pipelines: half
# sampling: uniform
# schedule: sgd
# self_training: dacs
# domains: gta2cs synthia2cs
# methods: source_only dacs pixel patch pipa proda proda_stage2 proda_stage3 pipa_proda

# As in DACS. Height, width.
crop_size = (512, 512)
# The two crops of the patch contrast: 0.7 of the crop, as 720 is of 1024 (ours: PiPa has no figure on this network);
# multiples of the encoder's stride of 8.
patch_size = tuple(side * 7 // 10 // 8 * 8 for side in crop_size)

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
        type="ResNet",
        depth=101,
        num_stages=4,
        # The classifier reads the last map; the projection heads of PiPa read all four.
        out_indices=(0, 1, 2, 3),
        # Output stride 8: the last two stages dilate instead of halving.
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        style="pytorch",
        # Norms train like everything else, with the statistics of the batch (ours: the papers do not say).
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        # torchvision's ImageNet weights, its file resnet101-63fe2227.pth under this name (ours: DACS started
        # from COCO's).
        init_cfg=dict(type="Pretrained", checkpoint="{{$PIPA_PRETRAINED:pretrained}}/resnet101.pth"),
    ),
    decode_head=dict(
        type="DeepLabV2Head",
        in_channels=2048,
        in_index=3,
        # The Cityscapes classes.
        num_classes=19,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    # One pass over the whole image.
    test_cfg=dict(mode="whole"),
)
