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
