"""IDDA -> CamVid, small network: self-training and pixel contrast.

pipa train idda_to_camvid_pixel --cfg-options data_root=FOLDER
"""

_base_ = ["idda_to_camvid_pipa.py"]

pipa = dict(patch_weight=0.0)
