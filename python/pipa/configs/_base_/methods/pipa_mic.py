"""PiPa and MIC together: the contrasts shape the features, the masks teach context; neither needs the other's pass."""

_base_ = ["pipa.py"]

# The comments on these are in mic.py.
pipa = dict(mask_weight=1.0, mask_block=64, mask_ratio=0.7, mask_augment=True)
