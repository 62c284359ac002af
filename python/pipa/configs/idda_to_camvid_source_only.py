"""IDDA -> CamVid, small network: source labels only, what PiPa starts from.

pipa train idda_to_camvid_source_only.py --cfg-options data_root=FOLDER
"""

_base_ = ["_base_/idda_to_camvid.py"]

iterations = 1000
warmup_iters = min(100, iterations // 2)
train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_interval=1000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=max(1, warmup_iters)),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=warmup_iters, end=iterations),
]
