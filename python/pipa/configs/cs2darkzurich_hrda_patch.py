"""Cityscapes -> Dark Zurich, HRDA: self-training and patch contrast."""

_base_ = [
    "_base_/networks/hrda.py",
    "_base_/domains/cs2darkzurich_1024.py",
    "_base_/methods/patch.py",
    "_base_/training.py",
]
