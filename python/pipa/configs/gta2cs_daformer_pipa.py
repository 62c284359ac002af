"""GTA5 -> Cityscapes, DAFormer: PiPa (self-training, pixel and patch contrast)."""

_base_ = [
    "_base_/networks/daformer.py",
    "_base_/domains/gta2cs_640.py",
    "_base_/methods/pipa.py",
    "_base_/training.py",
]

# 0.7 of the crop, as 720 is of 1024; a multiple of the encoder's stride of 32.
pipa = dict(patch_size=(448, 448))
