"""Toy pair, trained on target labels: the upper bound no adaptation may use."""

_base_ = ["./_base_/toy.py"]

train_dataloader = dict(
    dataset=dict(
        dataset=dict(data_root=_base_.data_root + "/target", labels="gtFine_oracle/train"),
    ),
)
