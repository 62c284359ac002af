"""PiPa with pseudo-labels that class prototypes correct, for confusions that a teacher confirms (pavement and road)."""
# title: PiPa with prototype-weighted pseudo-labels
# over: pipa
# networks: deeplabv2_r101 daformer

head_channels = model["decode_head"]["in_channels"]
# Of the deepest map, which prototypes live on.
feature_channels = head_channels if isinstance(head_channels, int) else head_channels[-1]
pipa.update(
    # The teacher's softmax, weighted by the distance of the pixel to each class: ProDA's one-stage variant.
    prototype_labels=True,
    # tau is 1 in ProDA, on features of 256 channels; distances grow with the root of the number of channels.
    prototype_temperature=(feature_channels / 256) ** 0.5,
    # First values come from the first iterations. 0.9999 is for a network that is trained already.
    prototype_momentum=0.999,
    prototype_min_pixels=10,
)
