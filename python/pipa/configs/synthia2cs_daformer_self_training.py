"""SYNTHIA -> Cityscapes, DAFormer: self-training as published."""

_base_ = [
    "_base_/networks/daformer.py",
    "_base_/domains/synthia2cs_640.py",
    "_base_/methods/self_training.py",
    "_base_/training.py",
]
