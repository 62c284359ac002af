"""GTA5 and SYNTHIA -> Cityscapes. Labels: `pipa convert gta`, `pipa convert synthia`, `pipa convert cityscapes`."""
# title: GTA5 + SYNTHIA -> Cityscapes
# pipelines: gta2cs

# PIPA_DATA=FOLDER, or --cfg-options data_root=FOLDER, moves all data sets.
data_root = "{{$PIPA_DATA:data}}"
# SYNTHIA at the scale of Cityscapes (ours): its own 1280 x 760 is as wide as GTA5 is scaled to.
synthia_scale = (source_scale[0], source_scale[0] * 760 // 1280)
synthia_pipeline = [dict(step, scale=synthia_scale) if step["type"] == "Resize" else step for step in source_pipeline]
# 24,966 and 9,400 images as one data set; rare class sampling counts the classes of both. SYNTHIA has no terrain, truck
# and train, which GTA5 has: all 19 classes are evaluated.
source = dict(
    type="ConcatDataset",
    datasets=[
        dict(type="GTADataset", data_root=data_root + "/gta", pipeline=source_pipeline),
        dict(type="SynthiaDataset", data_root=data_root + "/synthia", pipeline=synthia_pipeline),
    ],
)
# unlabelled: the labels are not looked for.
target = dict(type="CityscapesDomainDataset", data_root=data_root + "/cityscapes", split="train", unlabelled=True)
target_val = dict(type="CityscapesDomainDataset", data_root=data_root + "/cityscapes", split="val")
val_evaluator = dict(type="DomainIoUMetric", iou_metrics=["mIoU"])
