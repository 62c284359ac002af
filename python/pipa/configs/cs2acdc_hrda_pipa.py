"""Cityscapes -> ACDC, HRDA: PiPa (self-training, pixel and patch contrast)."""

_base_ = [
    "_base_/networks/hrda.py",
    "_base_/domains/cs2acdc_1024.py",
    "_base_/methods/pipa.py",
    "_base_/training.py",
]
