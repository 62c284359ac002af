"""Optimiser and schedule of DAFormer, which HRDA, MIC and PiPa kept."""

# Where the published trainings stop. Every schedule follows.
max_iters = 60000
# First 1500 iterations: early steps of AdamW would destroy ImageNet's features.
warmup_iters = 1500

optim_wrapper = dict(
    # Half the memory and time in bfloat16, on CPUs and GPUs: --cfg-options optim_wrapper.type=AutocastOptimWrapper
    type="OptimWrapper",
    # SegFormer's learning rate, for a pretrained encoder. fused: one kernel for all weights, not four per weight.
    optimizer=dict(type="AdamW", lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01, fused=True),
    paramwise_cfg=dict(
        custom_keys=dict(
            # Heads start from nothing, the projection heads among them ("pipa_heads").
            head=dict(lr_mult=10.0),
            # Positions are no weights to shrink.
            pos_block=dict(decay_mult=0.0),
        ),
        # Neither are the scales and shifts of norms. By kind, because not every norm has "norm" in its name.
        norm_decay_mult=0.0,
    ),
)
# Both act together, from the start: the rate of iteration i is lr (1 - i / max_iters) min(1, 1e-6 + i / warmup_iters).
# mmengine counts the last step in, hence the + 1.
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=warmup_iters + 1),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=0, end=max_iters + 1),
]
