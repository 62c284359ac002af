"""DINOv3 ViT-B/16: rotary positions, four register tokens, patches of 16 pixels."""
# title: DINOv3 ViT-B/16
# over: dinov2_vitb14
# domains: gta2cs
# methods: source_only self_training pipa
# set: token = 16  # Side of a patch in pixels: crops are multiples of it.

model["backbone"].update(
    model_name="vit_base_patch16_dinov3",
    # The released file under this name (its own is longer), DINOv3's licence.
    init_cfg=dict(type="Pretrained", checkpoint="{{$PIPA_PRETRAINED:pretrained}}/dinov3_vitb16_pretrain.pth"),
)
