# PipaHook of the small network, for either target of IDDA. What depends on crop or classes stands in the configs.
custom_hooks = [
    dict(
        type="PipaHook",
        # The teacher averages about 100 iterations. 0.999 of the paper is for 40,000.
        alpha=0.99,
        # 0.968 in the paper. This small network is less sure of itself: at 0.968 hardly a pixel of the target counts.
        threshold=0.9,
        # Until then features and pseudo-labels are noise.
        patch_warmup=500,
        # 64 channels: at stride 4, heads of the paper's 256 would cost more than the encoder.
        pixel_dim=64,
        patch_dim=64,
        projection_hidden=64,
        gradient_interval=100,
    )
]
