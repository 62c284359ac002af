"""The data sets of domain adaptation as mmsegmentation data sets: GTA5, SYNTHIA, Cityscapes, ACDC and Dark Zurich.

What they have in common is in domain_dataset.py. All of them expect train ids ("labelTrainIds"), which `pipa convert`
writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmseg.datasets import CityscapesDataset
from mmseg.registry import DATASETS

from pipa.files.images import DataError
from pipa.files.listing import find_files
from pipa.mmseg.datasets.domain_dataset import DomainDataset
from pipa.mmseg.datasets.domain_dataset import OnBadFile as OnBadFile
from pipa.mmseg.datasets.domain_dataset import inside as inside
from pipa.mmseg.datasets.domain_dataset import read_list as read_list

CITYSCAPES = CityscapesDataset.METAINFO
# Classes that SYNTHIA labels; the published figures average over 16, or over 13 (without wall, fence, pole).
SYNTHIA_16 = tuple(name for name in CITYSCAPES["classes"] if name not in ("terrain", "truck", "train"))
SYNTHIA_13 = tuple(name for name in SYNTHIA_16 if name not in ("wall", "fence", "pole"))


@DATASETS.register_module()
class GTADataset(DomainDataset):
    """GTA5 (Playing for Data): `images/00001.png`, `labels/00001_labelTrainIds.png`; 19 Cityscapes classes.

    >>> from mmengine.registry import init_default_scope
    >>> init_default_scope("mmseg")  # in a config: default_scope = "mmseg"
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> import pipa, pipa.mmseg
    >>> image, label = pipa.toy.draw("source", 0)
    >>> for name, pixels in (("images/00001.png", image), ("labels/00001_labelTrainIds.png", label)):
    ...     Path("gta", name).parent.mkdir(parents=True)
    ...     Image.fromarray(pixels).save(Path("gta", name))
    >>> dataset = pipa.mmseg.GTADataset(data_root="gta", pipeline=[dict(type="LoadImage"), dict(type="LoadLabel")])
    >>> len(dataset), dataset[0]["gt_seg_map"].shape
    (1, (128, 256))
    """

    METAINFO = CITYSCAPES

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("data_prefix", dict(img_path="images", seg_map_path="labels"))
        kwargs.setdefault("img_suffix", ".png")
        kwargs.setdefault("seg_map_suffix", "_labelTrainIds.png")
        super().__init__(**kwargs)

    def missing_label_hint(self) -> str:
        return f"run `pipa convert gta {self.data_root}` first"

    def stats_command(self) -> str:
        return f"pipa convert gta {self.data_root}"


@DATASETS.register_module()
class SynthiaDataset(DomainDataset):
    """SYNTHIA-RAND-CITYSCAPES: `RGB/0000000.png`, `GT/LABELS/0000000_labelTrainIds.png`.

    Labels use the 19 Cityscapes train ids, three of which never occur (terrain, truck, train); the published figures
    average over SYNTHIA_16 or SYNTHIA_13 on Cityscapes (`DomainIoUMetric`).

    >>> from pathlib import Path
    >>> from PIL import Image
    >>> import pipa, pipa.mmseg
    >>> image, label = pipa.toy.draw("source", 0)
    >>> for name, pixels in (("RGB/0000000.png", image), ("GT/LABELS/0000000_labelTrainIds.png", label)):
    ...     Path("synthia", name).parent.mkdir(parents=True)
    ...     Image.fromarray(pixels).save(Path("synthia", name))
    >>> len(pipa.mmseg.SynthiaDataset(data_root="synthia", pipeline=[]))
    1
    """

    METAINFO = CITYSCAPES

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("data_prefix", dict(img_path="RGB", seg_map_path="GT/LABELS"))
        kwargs.setdefault("img_suffix", ".png")
        kwargs.setdefault("seg_map_suffix", "_labelTrainIds.png")
        super().__init__(**kwargs)

    def missing_label_hint(self) -> str:
        return f"run `pipa convert synthia {self.data_root}` first"

    def stats_command(self) -> str:
        return f"pipa convert synthia {self.data_root}"


@DATASETS.register_module()
class CityscapesDomainDataset(DomainDataset):
    """Cityscapes: `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`, `gtFine/SPLIT/CITY/*_gtFine_labelTrainIds.png`.

    Args:
        split: train, val or test.

    >>> from mmengine.registry import init_default_scope
    >>> init_default_scope("mmseg")  # in a config: default_scope = "mmseg"
    >>> import pipa, pipa.mmseg
    >>> root = pipa.toy.write("toy", train=2, val=1) / "target"
    >>> target = pipa.mmseg.CityscapesDomainDataset(data_root=root, unlabelled=True, pipeline=[dict(type="LoadImage")])
    >>> len(target), target[0]["img"].shape
    (2, (128, 256, 3))
    >>> len(pipa.mmseg.CityscapesDomainDataset(data_root=root, split="val", pipeline=[]))
    1
    """

    METAINFO = CITYSCAPES

    def __init__(self, split: str = "train", **kwargs: Any) -> None:
        kwargs.setdefault("data_prefix", dict(img_path=f"leftImg8bit/{split}", seg_map_path=f"gtFine/{split}"))
        kwargs.setdefault("img_suffix", "_leftImg8bit.png")
        kwargs.setdefault("seg_map_suffix", "_gtFine_labelTrainIds.png")
        super().__init__(**kwargs)

    def missing_label_hint(self) -> str:
        return f"run `pipa convert cityscapes {self.data_root}` first, or set unlabelled=True for the target domain"

    def stats_command(self) -> str:
        return f"pipa convert cityscapes {self.data_root}"


class _AnonDataset(DomainDataset):
    """Layout that ACDC and Dark Zurich share: `rgb_anon/.../X_rgb_anon.png`, `gt/.../X_gt_labelTrainIds.png`."""

    METAINFO = CITYSCAPES

    def __init__(self, folders: Sequence[str], **kwargs: Any) -> None:
        self.folders = list(folders)
        kwargs.setdefault("data_prefix", dict(img_path="rgb_anon", seg_map_path="gt"))
        kwargs.setdefault("img_suffix", "_rgb_anon.png")
        kwargs.setdefault("seg_map_suffix", "_gt_labelTrainIds.png")
        super().__init__(**kwargs)

    def pairs(self) -> Iterator[tuple[Path, Path]]:
        if self.ann_file:
            yield from super().pairs()
            return
        image_root, label_root = Path(self.data_prefix["img_path"]), Path(self.data_prefix["seg_map_path"])
        present = [folder for folder in self.folders if (image_root / folder).is_dir()]
        if not present:
            raise DataError(f"{image_root}: expected at least one of the folders {self.folders}, found none")
        for folder in present:
            for name in find_files(image_root / folder, self.img_suffix):
                stem = name[: -len(self.img_suffix)]
                yield image_root / folder / name, label_root / folder / (stem + self.seg_map_suffix)


@DATASETS.register_module()
class ACDCDataset(_AnonDataset):
    """ACDC: the official `rgb_anon/CONDITION/SPLIT/...`, or `rgb_anon/SPLIT/...` where the conditions were joined.

    Reference images (`train_ref`, ...) are not part of the domain and never taken.

    Args:
        split: train, val or test.
        conditions: which of fog, night, rain and snow.

    >>> from pathlib import Path
    >>> from PIL import Image
    >>> import pipa, pipa.mmseg
    >>> folder = Path("acdc/rgb_anon/night/train/GOPR0351")
    >>> folder.mkdir(parents=True)
    >>> Image.new("RGB", (8, 8)).save(folder / "GOPR0351_frame_000001_rgb_anon.png")
    >>> night = pipa.mmseg.ACDCDataset(data_root="acdc", conditions=["night"], unlabelled=True, pipeline=[])
    >>> len(night)
    1
    """

    def __init__(
        self, split: str = "train", conditions: Sequence[str] = ("fog", "night", "rain", "snow"), **kwargs: Any
    ) -> None:
        unknown = set(conditions) - {"fog", "night", "rain", "snow"}
        if unknown:
            raise ValueError(f"ACDCDataset: conditions must be among fog, night, rain, snow; got {sorted(unknown)}")
        folders = [f"{condition}/{split}" for condition in conditions]
        super().__init__([*folders, split] if len(conditions) == 4 else folders, **kwargs)


@DATASETS.register_module()
class DarkZurichDomainDataset(_AnonDataset):
    """Dark Zurich: `rgb_anon/SPLIT/TIME/...`; `train` has no labels (set unlabelled=True), `val/night` has 50.

    Args:
        split: train or val.
        times: which of night, twilight and day.

    >>> from pathlib import Path
    >>> from PIL import Image
    >>> import pipa, pipa.mmseg
    >>> folder = Path("dark_zurich/rgb_anon/train/night/GOPR0356")
    >>> folder.mkdir(parents=True)
    >>> Image.new("RGB", (8, 8)).save(folder / "GOPR0356_frame_000001_rgb_anon.png")
    >>> len(pipa.mmseg.DarkZurichDomainDataset(data_root="dark_zurich", unlabelled=True, pipeline=[]))
    1
    """

    def __init__(self, split: str = "train", times: Sequence[str] = ("night",), **kwargs: Any) -> None:
        super().__init__([f"{split}/{time}" for time in times], **kwargs)
