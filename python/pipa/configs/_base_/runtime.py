"""Loops, logs and checkpoints."""

custom_imports = dict(imports=["pipa.mmseg"])
default_scope = "mmseg"

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
# Weights to start from, instead of ImageNet's alone.
load_from = None
resume = False
