"""Reading configs whose data folder comes from the command line.

mmengine applies ``--cfg-options`` after a config file has run, so values that the file derived from an overridden
variable (``f"{data_root}/source"``) would keep the old one. The shipped configs therefore take their data folder from
the environment (``data_root = "{{$PIPA_DATA:...}}"``), which mmengine fills in before the file runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

DATA_VARIABLE = "PIPA_DATA"


def load_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Config of a file with ``options`` (dotted keys) on top; the option ``data_root`` reaches every data set.

    ``data_root`` is put into the environment variable PIPA_DATA while the file is read. Raises ValueError where the
    file has a ``data_root`` that does not take it from there.
    """
    options = dict(options or {})
    root = options.pop("data_root", None)
    before = os.environ.get(DATA_VARIABLE)
    if root is not None:
        os.environ[DATA_VARIABLE] = Path(root).as_posix()
    try:
        config = Config.fromfile(str(path))
    finally:
        if before is None:
            os.environ.pop(DATA_VARIABLE, None)
        else:
            os.environ[DATA_VARIABLE] = before
    if root is not None and config.get("data_root") != Path(root).as_posix():
        raise ValueError(
            f"{path}: the option data_root has no effect: the config does not say "
            f'data_root = "{{{{${DATA_VARIABLE}:...}}}}"; override the data_root of each data set instead'
        )
    config.merge_from_dict(options)
    return config
