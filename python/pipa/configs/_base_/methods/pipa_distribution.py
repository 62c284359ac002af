"""PiPa with the contrast of class distributions in the place of its pixel contrast (SePiCo, TPAMI 2023)."""
# title: PiPa with class-distribution contrast for its pixel contrast
# over: patch
# networks: daformer

pipa.update(
    # As much as the pixel contrast that it replaces (ours).
    distribution_weight=0.1,
    # The temperature of PiPa's contrasts, the momentum of its teacher (both ours).
    distribution_temperature=0.1,
    distribution_momentum=0.999,
    # Mixed images too, where their label counts.
    distribution_target=True,
    # Channels of the projection (PiPa's paper).
    pixel_dim=256,
)
