"""SYNTHIA-RAND-CITYSCAPES -> Cityscapes. Labels as train ids: `pipa convert synthia`, `pipa convert cityscapes`."""
# title: SYNTHIA -> Cityscapes
# pipelines: gta2cs
# set half: source_scale = (1280, 760)  # Width, height: SYNTHIA's own size.
# set full: source_scale = (2560, 1520)  # Width, height: twice SYNTHIA's size, about the scale of Cityscapes images.

# PIPA_DATA=FOLDER, or --cfg-options data_root=FOLDER, moves all data sets.
data_root = "{{$PIPA_DATA:data}}"
source = dict(type="SynthiaDataset", data_root=data_root + "/synthia", pipeline=source_pipeline)
# unlabelled: the labels are not looked for.
target = dict(type="CityscapesDomainDataset", data_root=data_root + "/cityscapes", split="train", unlabelled=True)
target_val = dict(type="CityscapesDomainDataset", data_root=data_root + "/cityscapes", split="val")
# SYNTHIA has no terrain, truck and train: published are the means over the other 16, and over 13 without wall, fence
# and pole. Pixels of the three classes still count as errors of the others, as in the published evaluation.
SYNTHIA_16 = [c for c in range(19) if c not in (9, 14, 16)]
SYNTHIA_13 = [c for c in SYNTHIA_16 if c not in (3, 4, 5)]
val_evaluator = dict(type="DomainIoUMetric", iou_metrics=["mIoU"], subsets=dict(mIoU16=SYNTHIA_16, mIoU13=SYNTHIA_13))
