"""The base of domain adaptation's data sets: what they do that mmsegmentation's own do not.

Every image is checked to have its label before training starts. `unlabelled=True` makes a target data set that never
opens a label (its label files need not exist). They take draws (see draw.py), so that a training resumes exactly. A
bad file stops the training with an error that names it, or with `on_bad_file="skip"` is logged and replaced by another
image of the same draw.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, get_args

from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset

from pipa.files.images import DataError
from pipa.files.labels import IGNORED
from pipa.files.listing import find_files
from pipa.functional.numbers import whole
from pipa.mmseg.datasets.draw import REPLACEMENT, Draw, seeded
from pipa.mmseg.datasets.native_pipeline import Fused, fuse
from pipa.mmseg.datasets.target_pipeline import TargetPipeline
from pipa.mmseg.datasets.transforms import LoadLabel, label_loader

OnBadFile = Literal["stop", "skip"]
_REPLACEMENTS = 10


def inside(root: str | Path, relative: str, source: str | Path) -> Path:
    """`root/relative`, refused when it leaves `root`: list files may come with a downloaded data set.

    Symbolic links inside the root are followed: people keep data sets on other disks that way.
    """
    pure = PurePosixPath(relative.replace("\\", "/"))
    drive = PureWindowsPath(relative).drive or "://" in relative  # elsewhere a colon is a letter like others: 10:00:00
    if pure.is_absolute() or ".." in pure.parts or drive or not pure.parts:
        raise DataError(f"{source}: the entry {relative!r} leads out of the data root {root}; expected a relative path")
    return Path(root) / pure


def read_list(path: str | Path) -> list[str]:
    """Stems of a list file: one per line, empty lines and lines that begin with # left out.

    Raises:
        DataError: the file cannot be read, or names a stem twice (its image would count twice in a score).
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()  # Notepad marks UTF-8
    except OSError as error:
        raise DataError(f"{path}: cannot read this list file ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: expected a text file with one stem per line, found bytes that are no UTF-8") from None
    stems = {number: line.strip() for number, line in enumerate(lines, 1)}
    stems = {number: stem for number, stem in stems.items() if stem and not stem.startswith("#")}
    seen: dict[PurePosixPath, int] = {}
    for number, stem in stems.items():
        first = seen.setdefault(PurePosixPath(stem.replace("\\", "/")), number)
        if first != number:
            raise DataError(
                f"{path}: line {number} ({stem!r}) names the image of line {first} again; take one of the two out "
                "(RareClassSampling draws by class, and RepeatDataset repeats a whole data set)"
            )
    return list(stems.values())


class DomainDataset(BaseSegDataset):
    """Base of the data sets of domains.py: pairs of `data_prefix[img_path]/STEM + img_suffix` and
    `data_prefix[seg_map_path]/STEM + seg_map_suffix`, STEM from `ann_file` or from the folder.

    Args:
        data_root: folder that holds the data set.
        unlabelled: never look for or open labels.
        on_bad_file: "stop", or "skip" to log the file and take another one.
        fuse: run the start of the pipeline natively where it has the usual form (see native_pipeline.py); the samples
            are the same.
        everything else: as mmseg's BaseSegDataset.
    """

    pipeline: Any

    def __init__(
        self,
        *,
        data_root: str | Path,
        unlabelled: bool = False,
        on_bad_file: OnBadFile = "stop",
        fuse: bool = True,
        **kwargs: Any,
    ) -> None:
        if on_bad_file not in get_args(OnBadFile):
            raise ValueError(f"{type(self).__name__}: on_bad_file must be 'stop' or 'skip', got {on_bad_file!r}")
        if not Path(data_root).is_dir():
            raise DataError(f"{data_root}: expected the folder of a data set (data_root), found no such folder")
        self.unlabelled = unlabelled
        self.on_bad_file = on_bad_file
        self.fuse = fuse
        self._fused: tuple[list, Fused | None] | None = None
        if "ignore_index" in kwargs:
            kwargs["ignore_index"] = whole(kwargs["ignore_index"], f"{type(self).__name__}: ignore_index")
        super().__init__(data_root=str(data_root), **kwargs)
        if self.ignore_index != IGNORED:  # metrics take it from here; 255 is what all take where nothing is said
            self._metainfo["ignore_index"] = self.ignore_index
        self._check_label_loader()
        if unlabelled:
            self.pipeline = TargetPipeline(self.pipeline)

    def _check_label_loader(self) -> None:
        """Whoever loads the label must know what this data set says about it."""
        loader = None if self.unlabelled else label_loader(self.pipeline.transforms)
        if loader is None:
            return
        if isinstance(loader, LoadLabel):
            if self.reduce_zero_label:
                raise DataError(
                    f"{type(self).__name__}: reduce_zero_label=True is not what LoadLabel does; give the classes of "
                    "FolderDataset an id_map instead"
                )
            return
        needs = _needs(self.label_info(), self.stored_classes())
        if needs:
            raise DataError(
                f"{type(self).__name__}: its labels need {needs}, which {type(loader).__name__} in the pipeline does "
                "not know; use dict(type='LoadLabel')"
            )

    def prepare_data(self, index: int) -> Any:
        sample = super().prepare_data(index)
        if sample is not None and not self.unlabelled and label_loader(self.pipeline.transforms) is None:
            needs = _needs(self.label_info(), self.stored_classes())
            packed = sample.get("data_samples") if isinstance(sample, dict) else None
            if needs and ("gt_seg_map" in sample or (packed is not None and "gt_sem_seg" in packed)):
                raise DataError(
                    f"{type(self).__name__}: its labels need {needs}, but something else than LoadLabel has loaded "
                    f"that of {self.get_data_info(index)['img_path']}; use dict(type='LoadLabel')"
                )
        return sample

    # What a subclass may change -------------------------------------------------------------------------------------
    def pairs(self) -> Iterator[tuple[Path, Path]]:
        """Image path and label path of every sample, sorted; the files need not be checked."""
        image_root = Path(self.data_prefix.get("img_path") or self.data_root)
        label_root = Path(self.data_prefix.get("seg_map_path") or self.data_root)
        if self.ann_file:
            for stem in read_list(self.ann_file):
                image = inside(image_root, stem + self.img_suffix, self.ann_file)
                yield image, inside(label_root, stem + self.seg_map_suffix, self.ann_file)
        else:
            self.need_folder(image_root)
            for name in self.named(find_files(image_root, self.img_suffix, ignore_case=True), image_root):
                yield image_root / name, label_root / (name[: -len(self.img_suffix)] + self.seg_map_suffix)

    def named(self, names: Iterable[str], folder: Path) -> Iterator[str]:
        """Those that end in the suffix as it is written; others are told, since `pipa predict` takes them."""
        others = []
        for name in names:
            if name.endswith(self.img_suffix):
                yield name
            else:
                others.append(name)
        if others:
            more = f" with {len(others) - 1} more" if len(others) > 1 else ""
            warnings.warn(
                f"{folder / others[0]}: left out{more}: img_suffix is {self.img_suffix!r}; "
                "rename it, or give it a data set of its own",
                UserWarning,
                stacklevel=2,
            )

    def label_info(self) -> dict:
        """Extra entries of every sample that LoadLabel reads."""
        return {}

    # --------------------------------------------------------------------------------------------------------------
    def need_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder}: expected a folder of *{self.img_suffix} images, found no such folder")

    def load_data_list(self) -> list[dict]:
        exists = _FolderCache()
        samples = []
        missing_images, missing_labels = [], []
        fixed: dict[str, Any] = dict(label_map=self._chosen_classes(), reduce_zero_label=self.reduce_zero_label)
        fixed.update(num_classes=self.stored_classes(), ignore_index=self.ignore_index, **self.label_info())
        for image, label in self.pairs():
            sample = dict(img_path=str(image), seg_fields=[], **fixed)
            if not exists(image):
                missing_images.append(image)
            if not self.unlabelled:
                sample["seg_map_path"] = str(label)
                if not exists(label):
                    missing_labels.append((image, label))
            samples.append(sample)
        if missing_images:
            raise DataError(
                f"{missing_images[0]}: this image is listed in {self.ann_file} but does not exist"
                f"{_more(len(missing_images), 'images')}"
            )
        if missing_labels:
            image, label = missing_labels[0]
            raise DataError(
                f"{label}: the label of {image.name} does not exist{_more(len(missing_labels), 'labels')}; "
                f"{self.missing_label_hint()}"
            )
        if not samples:
            where = self.ann_file or self.data_prefix.get("img_path") or self.data_root
            raise DataError(
                f"{where}: {type(self).__name__} expected at least one *{self.img_suffix} image, found none"
            )
        return samples

    def _chosen_classes(self) -> dict[int, int] | None:
        """mmseg's label map, in which 255 stands for a class that was not chosen, whatever id this data ignores."""
        names = type(self).METAINFO.get("classes") or ()
        chosen = set(self.metainfo["classes"] or ())
        return self.label_map and {
            old: new if names[old] in chosen else self.ignore_index for old, new in self.label_map.items()
        }

    def missing_label_hint(self) -> str:
        return "set unlabelled=True for a target domain without labels"

    def stats_command(self) -> str:
        """The command that counts the labels' classes anew."""
        labels = self.data_prefix.get("seg_map_path") or self.data_root
        return f"pipa stats {labels} --suffix {self.seg_map_suffix} --out {self.data_root}"

    def stored_classes(self) -> int:
        """Number of ids that a label file may hold: `classes` may name a subset of them."""
        return len(type(self).METAINFO.get("classes") or self.metainfo["classes"])

    def fused(self) -> Fused | None:
        """The native form of the pipeline as it is now, or None."""
        transforms = list(self.pipeline.transforms)
        if self._fused is None or self._fused[0] != transforms:
            narrow = max(self.ignore_index, self.stored_classes() - 1) <= 255
            self._fused = (transforms, fuse(transforms, self.ignore_index) if self.fuse and narrow else None)
        return self._fused[1]

    def __getitem__(self, index: int) -> dict:
        fused = self.fused() if isinstance(index, Draw) else None
        for attempt in range(_REPLACEMENTS):
            try:
                if fused is not None and isinstance(index, Draw):
                    return fused(self.get_data_info(int(index)), index, attempt)
                with seeded(index, attempt):
                    return BaseSegDataset.__getitem__(self, index)
            except DataError as error:
                if self.on_bad_file == "stop" or self.test_mode:
                    raise
                print_log(f"skipped a bad file: {error}", logger="current", level=logging.WARNING)
                index = self.replacement(index, attempt)
        raise DataError(f"{self.data_root}: {_REPLACEMENTS} files in a row are not usable; run `pipa doctor CONFIG`")

    def replacement(self, index: int, attempt: int) -> int:
        """Another image for a draw whose image is not usable."""
        if isinstance(index, Draw):
            return index.at(int(index.generator(REPLACEMENT, attempt).integers(len(self))))
        return (index + 1) % len(self)


def _needs(label_info: dict, classes: int) -> str:
    """What a plain reader of ids in one byte would get wrong, or nothing."""
    if label_info.get("label_colors"):
        return "their colours looked up"
    if label_info.get("id_map") is not None:
        return "their id map"
    return "more than 8 bits" if classes > 255 else ""


class _FolderCache:
    """Does a file exist? Reads each folder once: a stat per file takes minutes on a network disk."""

    def __init__(self) -> None:
        self.names: dict[Path, set[str]] = {}

    def __call__(self, path: Path) -> bool:
        folder = path.parent
        if folder not in self.names:
            self.names[folder] = set(os.listdir(folder)) if folder.is_dir() else set()
        return path.name in self.names[folder]


def _more(count: int, what: str) -> str:
    return "" if count == 1 else f" (and {count - 1} more {what} are missing)"
