"""SYNTHIA -> Cityscapes, HRDA: self-training and pixel contrast."""

_base_ = [
    "_base_/networks/hrda.py",
    "_base_/domains/synthia2cs_1024.py",
    "_base_/methods/pixel.py",
    "_base_/training.py",
]
