"""Raw label ids of the public data sets -> the 19 Cityscapes train ids. Ids that are not listed are ignored (255)."""

from __future__ import annotations

# GTA5 uses the Cityscapes label ids.
CITYSCAPES_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15,
    31: 16, 32: 17, 33: 18,
}  # fmt: skip

# SYNTHIA-RAND-CITYSCAPES. Ids 16 (terrain), 18 (truck) and 20 (train) hardly occur in it; published averages leave
# them out.
SYNTHIA_IDS = {
    3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9, 1: 10, 10: 11, 17: 12, 8: 13, 18: 14, 19: 15, 20: 16,
    12: 17, 11: 18,
}  # fmt: skip

# Names in Cityscapes' polygon files. None: never drawn, whatever lies below stays visible.
CITYSCAPES_NAMES: dict[str, int | None] = {
    "unlabeled": 255, "ego vehicle": 255, "rectification border": 255, "out of roi": 255, "static": 255,
    "dynamic": 255, "ground": 255, "road": 0, "sidewalk": 1, "parking": 255, "rail track": 255, "building": 2,
    "wall": 3, "fence": 4, "guard rail": 255, "bridge": 255, "tunnel": 255, "pole": 5, "polegroup": 255,
    "traffic light": 6, "traffic sign": 7, "vegetation": 8, "terrain": 9, "sky": 10, "person": 11, "rider": 12,
    "car": 13, "truck": 14, "bus": 15, "caravan": 255, "trailer": 255, "train": 16, "motorcycle": 17, "bicycle": 18,
    "license plate": None,
}  # fmt: skip
