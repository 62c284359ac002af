"""Optimiser and schedule of DACS: SGD with momentum, whose rate falls with a power of the time left.

For source labels alone and for PiPa's contrasts on DeepLab-v2 they are ours.
"""

max_iters = 250000
lr = 2.5e-4
weight_decay = 5e-4

optim_wrapper = dict(
    # Half the memory and time in bfloat16, on CPUs and GPUs: --cfg-options optim_wrapper.type=AutocastOptimWrapper
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=lr, momentum=0.9, weight_decay=weight_decay),
    # Heads start from nothing, the projection heads among them ("pipa_heads"). Ten times the rate is ours.
    paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10.0))),
)
# mmengine counts the last step in, hence the + 1.
param_scheduler = [dict(type="PolyLR", eta_min=0.0, power=0.9, by_epoch=False, begin=0, end=max_iters + 1)]
