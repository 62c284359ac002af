"""IDDA -> CamVid, small network: self-training and patch contrast.

pipa train idda_to_camvid_patch --cfg-options data_root=FOLDER
"""

_base_ = ["idda_to_camvid_pipa.py"]

pipa = dict(pixel_weight=0.0)
