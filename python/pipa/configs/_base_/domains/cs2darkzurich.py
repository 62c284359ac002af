"""Cityscapes -> Dark Zurich (night). Labels as train ids: `pipa convert cityscapes`."""
# title: Cityscapes -> Dark Zurich
# pipelines: cs2acdc

# PIPA_DATA=FOLDER, or --cfg-options data_root=FOLDER, moves all data sets.
data_root = "{{$PIPA_DATA:data}}"
source = dict(
    type="CityscapesDomainDataset", data_root=data_root + "/cityscapes", split="train", pipeline=source_pipeline
)
dark_zurich = dict(type="DarkZurichDomainDataset", data_root=data_root + "/dark_zurich", times=["night"])
# 2416 images without labels.
target = dict(**dark_zurich, split="train", unlabelled=True)
# The 50 labelled ones; those of the test set stay with its authors' server.
target_val = dict(**dark_zurich, split="val")
val_evaluator = dict(type="DomainIoUMetric", iou_metrics=["mIoU"])
