"""IDDA -> CamVid, small network: PiPa, from the source-only checkpoint.

  pipa train idda_to_camvid_pipa.py --cfg-options data_root=FOLDER load_from=SOURCE_ONLY_CHECKPOINT

load_from matters in short runs: pseudo-labels of an untrained network are noise, and the first thousand iterations of
a run from ImageNet weights only learn the source. (The frozen ImageNet model of the feature distance is still the
ImageNet one: the hook keeps it before the checkpoint is loaded.)
"""

_base_ = ["_base_/idda_to_camvid.py"]

iterations = 400
warmup_iters = min(50, iterations // 2)
train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_interval=200)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=max(1, warmup_iters)),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=warmup_iters, end=iterations),
]
# A trained network moves on at half of the rate it was trained with.
optim_wrapper = dict(optimizer=dict(lr=1e-4))

custom_hooks = [
    dict(
        type="PipaHook",
        # The teacher averages about 1 / (1 - alpha) iterations: 0.999 of the paper would be the whole of this run.
        alpha=0.99,
        # 0.968 in the paper. This small network is less sure of itself: at 0.968 hardly a pixel of the target counts.
        threshold=0.9,
        # The start is trained already, so the patch term needs no 10,000 iterations of patience.
        patch_warmup=0,
        # 0.7 of the crop, as 720 of 1024 pixels in the paper.
        patch_size=tuple(side * 7 // 10 // 16 * 16 for side in _base_.crop_size),
        # 64 channels: at stride 4, heads of the paper's 256 would cost more than the encoder.
        pixel_dim=64,
        patch_dim=64,
        projection_hidden=64,
        # Thing classes: Pole, SignSymbol, Fence, Car, Pedestrian, Bicyclist.
        feature_distance_classes=[2, 6, 7, 8, 9, 10],
        gradient_interval=100,
    )
]
