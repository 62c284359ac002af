"""`FolderDataset`: any folder of images, any folder of labels, any number of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from mmseg.registry import DATASETS

from pipa.files.classes import Classes, load_classes
from pipa.files.images import DataError
from pipa.files.statistics import STATS_FILE
from pipa.functional.numbers import whole
from pipa.mmseg.datasets.domain_dataset import DomainDataset

__all__ = ["Classes", "FolderDataset", "LabelFormat", "load_classes"]

LabelFormat = Literal["ids", "colors"]


@DATASETS.register_module()
class FolderDataset(DomainDataset):
    """Your own data.

        dict(type="FolderDataset", data_root="data/mine", images="images", labels="labels", img_suffix=".jpg",
             label_suffix=".png", list_file="lists/train.txt", classes="classes.yaml")

    Args:
        images, labels: folders below data_root (searched recursively where there is no list_file).
        img_suffix, label_suffix: what is appended to a stem.
        list_file: one stem per line (`town/0001`), each once, relative to data_root; entries cannot leave the folders.
        classes: see `load_classes`; a file path is relative to data_root if it is not found as given.
        label_format: "ids", or "colors" for labels painted with the colours of the classes (others are ignored).
        metainfo: more of what the data set says about itself; names and colours are those of `classes`.
        unlabelled: a target domain; `labels` is not looked at.

    >>> import pipa, pipa.mmseg
    >>> root = pipa.toy.write("toy", train=2, val=1)
    >>> mine = pipa.mmseg.FolderDataset(
    ...     data_root=root / "source",
    ...     images="leftImg8bit/train",
    ...     img_suffix="_leftImg8bit.png",
    ...     labels="gtFine/train",
    ...     label_suffix="_gtFine_labelTrainIds.png",
    ...     classes=root / "classes.json",
    ...     pipeline=[],
    ... )
    >>> len(mine), len(mine.metainfo["classes"])
    (2, 9)
    """

    def __init__(
        self,
        *,
        data_root: str | Path,
        classes: str | Path | Mapping | Sequence,
        images: str = "images",
        labels: str = "labels",
        img_suffix: str = ".png",
        label_suffix: str = ".png",
        list_file: str = "",
        label_format: LabelFormat = "ids",
        ignore_index: int | None = None,
        metainfo: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if label_format not in get_args(LabelFormat):
            raise ValueError(f"FolderDataset: label_format must be 'ids' or 'colors', got {label_format!r}")
        if isinstance(classes, (str, Path)) and not Path(classes).is_file():
            classes = Path(data_root) / classes
        self.classes_file = str(classes) if isinstance(classes, (str, Path)) else None
        self.classes = load_classes(classes)
        self.label_format = label_format
        if label_format == "colors" and not self.classes.colors:
            raise DataError("FolderDataset: label_format='colors' needs a colour for each class")
        if ignore_index is None:
            ignore_index = 255 if self.classes.ignore_index is None else self.classes.ignore_index
        ignore_index = whole(ignore_index, "FolderDataset: ignore_index")
        if 0 <= ignore_index < len(self.classes.names):
            raise ValueError(
                f"FolderDataset: ignore_index {ignore_index} is one of the {len(self.classes.names)} classes; "
                "choose an id outside of them (65535 for more than 255 classes)"
            )
        known: dict[str, Any] = dict(classes=self.classes.names)
        if self.classes.colors:
            known["palette"] = [list(color) for color in self.classes.colors]
        for key in ("classes", "palette"):
            if key in (metainfo or {}):
                raise ValueError(
                    f"FolderDataset: metainfo={{{key!r}: ...}} is not taken, names and colours are those of classes="
                    f"{self.classes_file or '...'}; for some of the classes alone, give that argument only those, with "
                    "their ids"
                )
        super().__init__(
            data_root=data_root,
            data_prefix=dict(img_path=images, seg_map_path=labels),
            ann_file=list_file,
            img_suffix=img_suffix,
            seg_map_suffix=label_suffix,
            metainfo={**(metainfo or {}), **known},
            ignore_index=ignore_index,
            **kwargs,
        )

    def label_info(self) -> dict:
        if self.label_format == "colors":
            return dict(label_colors=self.classes.colors)
        return dict(id_map=self.classes.id_map) if self.classes.id_map is not None else {}

    def stats_command(self) -> str:
        command = super().stats_command()
        if self.classes_file is None:
            return f"rm {self.data_root}/{STATS_FILE}"  # then they are counted when the training starts
        command += f" --classes {self.classes_file}"
        command += " --label-format colors" if self.label_format == "colors" else ""
        return command if self.ignore_index == 255 else f"{command} --ignore-index {self.ignore_index}"
