"""Each source image is as likely as any other, as in DACS and ProDA."""

train_dataset = source
