"""Reading a config by its file, whatever it is written in, with values for its variables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config

from pipa.files.plain import SUFFIXES
from pipa.mmseg.run.data_config import read_data
from pipa.mmseg.run.options import check_idle
from pipa.mmseg.run.python_config import Layer, read_python

DATA_VARIABLE = "PIPA_DATA"


def read_config(path: str | Path, data_root: str | Path | None = None, variables: Layer | None = None) -> Config:
    """Config of a file: YAML and JSON as data, anything else as a program.

    Args:
        data_root: folder of the data sets, for the config's variable of that name and for the environment variable
            PIPA_DATA that the shipped configs take it from.
        variables: values of other variables of the config; what is computed from them follows.

    Raises:
        ValueError: the file has no variable ``data_root``, or one of its own that does nothing although a setting has
            its name.
    """
    layer = dict(variables or {})
    with _environment(None if data_root is None else Path(data_root).as_posix()):
        if data_root is not None:
            layer["data_root"] = Path(data_root).as_posix()
        read = read_data if Path(path).suffix in SUFFIXES else read_python
        found = read(path, (layer,) if layer else ())
    config = found.config
    if data_root is not None and config.get("data_root") != layer["data_root"]:
        raise ValueError(
            f"{path}: the option data_root has no effect, the config has no variable of that name; override the "
            "data_root of each data set instead"
        )
    if not layer:  # what is given here is the caller's to check
        check_idle(found, str(path))
    return config


@contextmanager
def _environment(root: str | None) -> Iterator[None]:
    before = os.environ.get(DATA_VARIABLE)
    if root is not None:
        os.environ[DATA_VARIABLE] = root
    try:
        yield
    finally:
        if root is not None and before is None:
            del os.environ[DATA_VARIABLE]
        elif root is not None and before is not None:
            os.environ[DATA_VARIABLE] = before
