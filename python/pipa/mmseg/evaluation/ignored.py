"""The id that a metric leaves out: the one it was given, or else the data set's."""

from __future__ import annotations

from typing import Any

from pipa.files.labels import IGNORED


class IgnoresAsData:
    """Part of a metric whose `ignore_index` is its data set's unless it was given one.

    Data sets of this package say theirs in their `metainfo`, where it is not 255.
    """

    dataset_meta: Any

    @property
    def ignore_index(self) -> int:
        if self._ignored is not None:
            return self._ignored
        return int((self.dataset_meta or {}).get("ignore_index", IGNORED))

    @ignore_index.setter
    def ignore_index(self, value: int | None) -> None:
        self._ignored = value
