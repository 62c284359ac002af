"""Reading a config whose data folder comes from the command line.

mmengine applies ``--cfg-options`` after a config file has run, so values that the file derived from an overridden
variable (``f"{data_root}/source"``) would keep the old one. The shipped configs therefore take their data folder from
the environment (``data_root = "{{$PIPA_DATA:...}}"``), which mmengine fills in before the file runs.
"""

from __future__ import annotations

import os
from pathlib import Path

from mmengine.config import Config

from pipa.files.plain import SUFFIXES
from pipa.mmseg.run.data_config import read_data_config

DATA_VARIABLE = "PIPA_DATA"


def read_config(path: str | Path, data_root: str | Path | None = None) -> Config:
    """Config of a file; ``data_root``, where given, stands in for the environment variable PIPA_DATA.

    Raises ValueError where the file's own ``data_root`` does not come from that variable.
    """
    if data_root is None:
        return _read(path)
    root = Path(data_root).as_posix()
    before = os.environ.get(DATA_VARIABLE)
    os.environ[DATA_VARIABLE] = root
    try:
        config = _read(path)
    finally:
        if before is None:
            del os.environ[DATA_VARIABLE]
        else:
            os.environ[DATA_VARIABLE] = before
    if config.get("data_root") != root:
        raise ValueError(
            f"{path}: the option data_root has no effect: the config does not say "
            f'data_root = "{{{{${DATA_VARIABLE}:...}}}}"; override the data_root of each data set instead'
        )
    return config


def _read(path: str | Path) -> Config:
    """YAML and JSON as data; anything else is mmengine's, a program."""
    return read_data_config(path) if Path(path).suffix in SUFFIXES else Config.fromfile(str(path))
