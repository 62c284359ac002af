"""IDDA -> CamVid, small network: more source training from a checkpoint, the rival of adaptation from that checkpoint.

pipa train idda_to_camvid_source_continued --cfg-options data_root=FOLDER load_from=CHECKPOINT iterations=2000
"""

_base_ = ["_base_/idda_to_camvid.py"]

# A trained network moves on at half of the rate it was trained with.
optim_wrapper = dict(optimizer=dict(lr=1e-4))
