"""IDDA -> CamVid, small network: source labels only, what adaptation must beat at equal length.

pipa train idda_to_camvid_source_only --cfg-options data_root=FOLDER
"""

_base_ = ["_base_/idda_to_camvid.py"]
