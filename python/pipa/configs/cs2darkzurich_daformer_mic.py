"""Cityscapes -> Dark Zurich, DAFormer: self-training and masked consistency (MIC)."""

_base_ = [
    "_base_/networks/daformer.py",
    "_base_/domains/cs2darkzurich_640.py",
    "_base_/methods/mic.py",
    "_base_/training.py",
]
