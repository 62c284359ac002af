"""Optimiser, schedule and runtime of all trainings: those of DAFormer, which HRDA, MIC and PiPa kept."""

custom_imports = dict(imports=["pipa.mmseg"])
default_scope = "mmseg"

# Where the published trainings stop.
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
# Both act together, from the start: the rate of iteration i is lr (1 - i / 60000) min(1, 1e-6 + i / 1500). mmengine
# counts the last step in, hence the + 1.
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=warmup_iters + 1),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=0, end=max_iters + 1),
]

train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=4000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    # No save_best: picking the checkpoint by labels of the target would use the labels one claims not to have. The last
    # one is what the papers report.
    checkpoint=dict(type="SafeCheckpointHook", interval=4000, max_keep_ckpts=2),
)
env_cfg = dict(
    # All crops have one size. For bit-equal repeats on a GPU: cudnn_benchmark=False and randomness.deterministic=True.
    cudnn_benchmark=True,
    # Not fork: a forked worker hangs after the first parallel call of its parent.
    mp_cfg=dict(mp_start_method="spawn", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
randomness = dict(seed=0)
log_processor = dict(by_epoch=False, window_size=50)
log_level = "INFO"
load_from = None
resume = False
