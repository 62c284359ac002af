"""Cityscapes -> Dark Zurich, DAFormer: source labels only."""

_base_ = [
    "_base_/networks/daformer.py",
    "_base_/domains/cs2darkzurich_640.py",
    "_base_/methods/source_only.py",
    "_base_/training.py",
]
