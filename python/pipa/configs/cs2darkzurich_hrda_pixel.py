"""Cityscapes -> Dark Zurich, HRDA: self-training and pixel contrast."""

_base_ = [
    "_base_/networks/hrda.py",
    "_base_/domains/cs2darkzurich_1024.py",
    "_base_/methods/pixel.py",
    "_base_/training.py",
]
