"""PiPa: self-training, pixel contrast and patch contrast (Chen et al., ACM Multimedia 2023)."""
# title: PiPa (self-training, pixel and patch contrast)
# over: pixel patch
