"""Cityscapes -> ACDC, DAFormer: PiPa and masked consistency (MIC)."""

_base_ = [
    "_base_/networks/daformer.py",
    "_base_/domains/cs2acdc_640.py",
    "_base_/methods/pipa_mic.py",
    "_base_/training.py",
]

# 0.7 of the crop, as 720 is of 1024; a multiple of the encoder's stride of 32.
pipa = dict(patch_size=(448, 448))
