"""Cityscapes -> ACDC, DAFormer: self-training and pixel contrast."""

_base_ = [
    "_base_/networks/daformer.py",
    "_base_/domains/cs2acdc_640.py",
    "_base_/methods/pixel.py",
    "_base_/training.py",
]
