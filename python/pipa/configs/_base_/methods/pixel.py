"""Self-training and PiPa's pixel contrast, on the source, whose classes are known (paper: +2.3 on DAFormer)."""
# title: self-training and pixel contrast
# over: self_training

pipa.update(
    # alpha of the paper.
    pixel_weight=0.1,
    pixel_temperature=0.1,
    # All pairs of two crops are over 10^9: at most 1024 anchors, as many of each class, half where the network errs.
    pixel_sampling="balanced",
    pixel_max_anchors=1024,
    pixel_max_per_class=100,
    # Channels of the projection (paper).
    pixel_dim=256,
)
