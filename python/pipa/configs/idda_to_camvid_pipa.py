"""IDDA -> CamVid, small network: PiPa, jointly from ImageNet weights as the papers train.

pipa train idda_to_camvid_pipa --cfg-options data_root=FOLDER
"""

_base_ = ["_base_/idda_to_camvid.py", "_base_/idda_hook.py"]

pipa = dict(
    # 0.7 of the crop, as 720 of 1024 pixels in the paper.
    patch_size=tuple(side * 7 // 10 // 16 * 16 for side in _base_.crop_size),
    # Thing classes: Pole, SignSymbol, Fence, Car, Pedestrian, Bicyclist.
    feature_distance_classes=[2, 6, 7, 8, 9, 10],
)
