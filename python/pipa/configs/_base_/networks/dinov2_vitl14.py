"""DINOv2 ViT-L/14: twice the blocks, 1024 channels. What published figures of foundation encoders are of."""
# title: DINOv2 ViT-L/14
# over: dinov2_vitb14
# domains: gta2cs
# methods: source_only self_training pipa

model["backbone"].update(
    model_name="vit_large_patch14_dinov2",
    init_cfg=dict(type="Pretrained", checkpoint="{{$PIPA_PRETRAINED:pretrained}}/dinov2_vitl14_pretrain.pth"),
)
model["neck"].update(embed_dim=1024)
model["decode_head"].update(in_channels=(1024, 1024, 1024, 1024))
