"""Cityscapes -> ACDC (fog, night, rain, snow). Labels as train ids: `pipa convert cityscapes`."""
# title: Cityscapes -> ACDC

# PIPA_DATA=FOLDER, or --cfg-options data_root=FOLDER, moves all data sets.
data_root = "{{$PIPA_DATA:data}}"
source = dict(
    type="CityscapesDomainDataset", data_root=data_root + "/cityscapes", split="train", pipeline=source_pipeline
)
# unlabelled: the labels are not looked for.
target = dict(type="ACDCDataset", data_root=data_root + "/acdc", split="train", unlabelled=True)
target_val = dict(type="ACDCDataset", data_root=data_root + "/acdc", split="val")
val_evaluator = dict(type="DomainIoUMetric", iou_metrics=["mIoU"])
