"""Self-training and masked image consistency (MIC, Hoyer et al., CVPR 2023)."""
# title: self-training and masked consistency (MIC)
# over: self_training

pipa.update(
    # The student must predict the teacher's labels of a target image of which it sees three tenths.
    mask_weight=1.0,
    # Blocks, not pixels: what is hidden cannot be read off its neighbours.
    mask_block=64,
    mask_ratio=0.7,
    # The masked image is jittered and blurred like a mixed one.
    mask_augment=True,
)
