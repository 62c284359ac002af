"""Cityscapes -> Dark Zurich, HRDA: self-training as published."""

_base_ = [
    "_base_/networks/hrda.py",
    "_base_/domains/cs2darkzurich_1024.py",
    "_base_/methods/self_training.py",
    "_base_/training.py",
]
