"""IDDA -> CamVid, small network: the same start and length without adaptation, the rival of PiPa.

pipa train idda_to_camvid_source_continued.py --cfg-options data_root=FOLDER load_from=SOURCE_ONLY_CHECKPOINT
"""

_base_ = ["idda_to_camvid_pipa.py"]

custom_hooks = []
