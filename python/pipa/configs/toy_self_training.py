"""Toy pair, self-training with ClassMix alone: what PiPa's two contrasts must beat."""

_base_ = ["./toy_pipa.py"]

pipa = dict(pixel_weight=0.0, patch_weight=0.0)
