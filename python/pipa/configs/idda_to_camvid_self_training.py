"""IDDA -> CamVid, small network: self-training alone, what the contrasts must beat.

pipa train idda_to_camvid_self_training --cfg-options data_root=FOLDER
"""

_base_ = ["idda_to_camvid_pipa.py"]

pipa = dict(pixel_weight=0.0, patch_weight=0.0)
