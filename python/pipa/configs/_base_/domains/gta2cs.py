"""GTA5 -> Cityscapes. Labels as train ids: `pipa convert gta`, `pipa convert cityscapes`."""
# title: GTA5 -> Cityscapes

# PIPA_DATA=FOLDER, or --cfg-options data_root=FOLDER, moves all data sets.
data_root = "{{$PIPA_DATA:data}}"
source = dict(type="GTADataset", data_root=data_root + "/gta", pipeline=source_pipeline)
# unlabelled: the labels are not looked for.
target = dict(type="CityscapesDomainDataset", data_root=data_root + "/cityscapes", split="train", unlabelled=True)
target_val = dict(type="CityscapesDomainDataset", data_root=data_root + "/cityscapes", split="val")
val_evaluator = dict(type="DomainIoUMetric", iou_metrics=["mIoU"])
