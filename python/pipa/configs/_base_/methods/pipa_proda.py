"""PiPa with pseudo-labels that class prototypes correct, for confusions that a teacher confirms (pavement and road).

The combination is ours: no paper has a figure of it.
"""
# title: PiPa with prototype-weighted pseudo-labels
# over: pipa
# networks: deeplabv2_r101 daformer

head_channels = model["decode_head"]["in_channels"]
# Of the deepest map, which prototypes live on.
feature_channels = head_channels if isinstance(head_channels, int) else head_channels[-1]
pipa.update(
    # The teacher's softmax, weighted by the distance of the pixel to each class: ProDA's one-stage variant.
    prototype_labels=True,
    # tau is 1 in ProDA, on features of 256 channels; distances grow with the root of the number of channels (the
    # root is ours).
    prototype_temperature=(feature_channels / 256) ** 0.5,
    # First values come from the first iterations: ours. ProDA's 0.9999 is for a network that is trained already.
    prototype_momentum=0.999,
    # A class with fewer pixels in the batch is left alone (ProDA).
    prototype_min_pixels=10,
)
