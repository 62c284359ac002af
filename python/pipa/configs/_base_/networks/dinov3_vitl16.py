"""DINOv3 ViT-L/16: twice the blocks, 1024 channels."""
# title: DINOv3 ViT-L/16
# over: dinov3_vitb16
# domains: gta2cs
# methods: source_only self_training pipa

model["backbone"].update(
    model_name="vit_large_patch16_dinov3",
    init_cfg=dict(type="Pretrained", checkpoint="{{$PIPA_PRETRAINED:pretrained}}/dinov3_vitl16_pretrain.pth"),
)
model["neck"].update(embed_dim=1024)
model["decode_head"].update(in_channels=(1024, 1024, 1024, 1024))
