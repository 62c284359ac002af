"""Self-training of foundation encoders (VFM-UDA++, ICCVW 2025): labels from image and mirror image, hidden tokens,
features near those of the frozen encoder."""
# title: self-training with hidden tokens
# over: self_training
# networks: dinov2_vitb14 dinov2_vitl14 dinov3_vitb16 dinov3_vitl16

pipa.update(
    # The teacher's logits are the mean over the image and its mirror image.
    label_flip=True,
    # Features stay near the frozen encoder's, 0.9 (1 - cos) + 0.1 smooth L1, everywhere, on source and target. With
    # encoder = "frozen" they are the frozen encoder's: nothing to do.
    feature_distance_weight=0.0 if encoder == "frozen" else 0.1,
    feature_distance_form="cosine",
    feature_distance_classes=None,
    feature_distance_target=encoder != "frozen",
    # Seven tenths of the tokens are hidden from the student, in blocks of four by four (ours, about MIC's 64 pixels).
    mask_weight=1.0,
    mask_kind="tokens",
    mask_block=4 * token,
    mask_ratio=0.7,
)
