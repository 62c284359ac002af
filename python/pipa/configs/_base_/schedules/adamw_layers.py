"""Optimiser and schedule of VFM-UDA++ for foundation encoders: the deeper a block, the faster it learns."""

max_iters = 40000
warmup_iters = 1500

optim_wrapper = dict(
    # Half the memory and time in bfloat16, on CPUs and GPUs: --cfg-options optim_wrapper.type=AutocastOptimWrapper
    type="OptimWrapper",
    constructor="LayerDecayConstructor",
    # The rate of the encoder's last block; published with eight source and eight target images: four processes of two.
    optimizer=dict(type="AdamW", lr=2.8e-6, betas=(0.9, 0.999), weight_decay=0.01, fused=True),
    paramwise_cfg=dict(
        # Of each block further down, and of patches and positions below them.
        layer_decay=0.9,
        custom_keys=dict(
            # Heads start from nothing, the projection heads among them ("pipa_heads"): the published 2.8e-5.
            head=dict(lr_mult=10.0),
            # So do the neck and adapters (encoder = "lora"): ours.
            neck=dict(lr_mult=10.0),
            lora_=dict(lr_mult=10.0),
        ),
        norm_decay_mult=0.0,
    ),
)
# mmengine counts the last step in, hence the + 1.
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=warmup_iters + 1),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=0, end=max_iters + 1),
]
