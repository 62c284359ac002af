"""PiPa with pseudo-labels that class prototypes correct, meant for confusions that a teacher confirms (road, pavement).

The combination is ours: no paper has a figure of it. The teacher learns what was corrected and is corrected again, and
on IDDA -> IDD-Lite its labels drifted (docs/results.md).
"""
# title: PiPa with prototype-weighted pseudo-labels
# over: pipa
# networks: deeplabv2_r101 daformer

# Prototypes live on what is classified, as in ProDA: DAFormer's fused map of stride 4 (its deepest has 32), or the
# deepest map, which is all that DeepLab-v2's classifier reads.
fuses = not isinstance(model["decode_head"]["in_channels"], int)
pipa.update(
    # The teacher's softmax, weighted by the distance of the pixel to each class: ProDA's one-stage variant.
    prototype_labels=True,
    prototype_layer="head" if fuses else -1,
    # tau is 1 in ProDA, on features of 256 channels; distances grow with the root of the number of channels (the
    # root is ours).
    prototype_temperature=(model["decode_head"]["channels" if fuses else "in_channels"] / 256) ** 0.5,
    # First values come from the first iterations: ours. ProDA's 0.9999 is for a network that is trained already.
    prototype_momentum=0.999,
    # A class with fewer pixels in the batch is left alone (ProDA).
    prototype_min_pixels=10,
)
