"""GTA5 -> Cityscapes, HRDA: source labels only."""

_base_ = [
    "_base_/networks/hrda.py",
    "_base_/domains/gta2cs_1024.py",
    "_base_/methods/source_only.py",
    "_base_/training.py",
]
