# The fair rival of idda_to_camvid_pipa.py: the same start, data, seed, iterations and learning rate, no adaptation.
#
#   pipa train idda_to_camvid_source_continued.py --cfg-options data_root=FOLDER load_from=SOURCE_ONLY_CHECKPOINT
_base_ = ["idda_to_camvid_pipa.py"]

custom_hooks = []
