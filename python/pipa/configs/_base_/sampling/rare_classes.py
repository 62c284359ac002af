"""Rare class sampling (DAFormer, section 3.3): images are drawn for a class, the rarer the more often."""

train_dataset = dict(
    type="RareClassSampling",
    # P(c) = softmax((1 - f_c) / T): 0.01 makes the rarest classes as likely as anything.
    temperature=0.01,
    # An image is drawn for a class it shows more than so many pixels of, ...
    min_pixels=3000,
    # ... and the crop keeps this share of that.
    min_crop_ratio=min_crop_ratio,
    dataset=source,
)
