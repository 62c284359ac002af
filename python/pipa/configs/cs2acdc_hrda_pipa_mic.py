"""Cityscapes -> ACDC, HRDA: PiPa and masked consistency (MIC)."""

_base_ = [
    "_base_/networks/hrda.py",
    "_base_/domains/cs2acdc_1024.py",
    "_base_/methods/pipa_mic.py",
    "_base_/training.py",
]
