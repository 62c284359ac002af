"""GTA5 -> Cityscapes, DAFormer: source labels only."""

_base_ = [
    "_base_/networks/daformer.py",
    "_base_/domains/gta2cs_640.py",
    "_base_/methods/source_only.py",
    "_base_/training.py",
]
