"""IDDA -> IDD-Lite, small network: trained on target labels, the upper bound no adaptation may use.

pipa train idda_to_iddlite_oracle --cfg-options data_root=FOLDER
"""

_base_ = ["_base_/idda_to_iddlite.py"]

train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            data_root={{_base_.val_dataloader.dataset.data_root}},
            classes={{_base_.val_dataloader.dataset.classes}},
            pipeline=[
                dict(type="LoadImage"),
                dict(type="LoadLabel"),
                dict(type="RandomResize", scale=(320, 227), ratio_range=(1.0, 1.5), keep_ratio=True),
                dict(type="SyncCrop", crop_size={{_base_.crop_size}}, cat_max_ratio=0.75),
                dict(type="RandomFlip", prob=0.5),
                dict(type="PackSegInputs"),
            ],
        )
    )
)
