# IDDA (rendered, labelled) -> IDD-Lite (real Indian roads, unlabelled), 7 classes. The comments on data, network and
# optimiser are in idda_to_camvid.py; here is what differs.
#
# Layout below data_root:   source/{images,labels,lists}                lists/train.txt
#                           idd/{images,labels,lists}                   lists/{train,val,test}.txt
#                           idd/classes_source.yaml                     joins IDDA's eleven ids to the seven classes
#                           idd/classes_target.yaml
_base_ = ["./idda_to_camvid.py"]

data_root = "{{$PIPA_DATA:data/idda_to_iddlite}}"
source = dict(classes=f"{data_root}/idd/classes_source.yaml")
target = dict(data_root=f"{data_root}/idd", classes=f"{data_root}/idd/classes_target.yaml")

train_dataloader = dict(dataset=dict(dataset=source))
target_dataloader = dict(dataset=target)
val_dataloader = dict(dataset=target)
test_dataloader = dict(dataset=target)
model = dict(decode_head=dict(num_classes=7))

# The source alone stops to improve after 1000 iterations; pseudo-labels need the rest.
iterations = 6000
warmup_iters = min(100, iterations // 2)
train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_interval=500)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=max(1, warmup_iters)),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=warmup_iters, end=iterations),
]
