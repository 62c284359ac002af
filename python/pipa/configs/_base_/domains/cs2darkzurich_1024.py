"""Cityscapes -> Dark Zurich (night), crops of 1024 pixels. Its images have the size of ACDC's."""

_base_ = ["cs2acdc_1024.py"]

dark_zurich = _base_.data_root + "/dark_zurich"
# 2416 images without labels.
target_dataloader = dict(
    dataset=dict(type="DarkZurichDomainDataset", data_root=dark_zurich, split="train", times=["night"])
)
# The 50 labelled ones; those of the test set stay with its authors' server.
val_dataloader = dict(dataset=dict(type="DarkZurichDomainDataset", data_root=dark_zurich, split="val", times=["night"]))
test_dataloader = dict(
    dataset=dict(type="DarkZurichDomainDataset", data_root=dark_zurich, split="val", times=["night"])
)
