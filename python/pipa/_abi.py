"""Refuses a torch that the native part was not built for, before loading it could crash the interpreter."""

from __future__ import annotations

import re
from importlib import metadata, util
from pathlib import Path


def torch_build() -> str:
    """Version of torch that the installed `_core` was built against, e.g. ``"2.13.0"`` (no local suffix).

    Read from the file's bytes, because loading `_core` against another libtorch would crash.
    """
    spec = util.find_spec("pipa._core")
    if spec is None or spec.origin is None:
        raise ImportError("pipa: the native part pipa._core is missing; install the wheel or run `make build`")
    match = re.search(rb"pipa-torch-build=([0-9.]+)", Path(spec.origin).read_bytes())
    if match is None:
        raise ImportError(f"pipa: {spec.origin} does not say which torch it was built for; reinstall pipa-rs")
    return match.group(1).decode()


def check() -> None:
    """Raise ImportError with one sentence unless the installed torch is the one that `_core` was built for."""
    built = torch_build()
    try:
        found = metadata.version("torch")
    except metadata.PackageNotFoundError:
        raise ImportError(
            f"pipa {metadata_version()} needs torch {built}, and no torch is installed: pip install torch=={built}"
        ) from None
    if found.split("+")[0] != built:
        raise ImportError(
            f"pipa {metadata_version()} was built for torch {built}, but torch {found} is installed: "
            f"pip install torch=={built}, or build pipa-rs from source against {found} (CONTRIBUTING, 'Another torch')"
        )


def metadata_version() -> str:
    """Version of pipa-rs, or ``"(source tree)"`` when it is not installed as a package."""
    try:
        return metadata.version("pipa-rs")
    except metadata.PackageNotFoundError:
        return "(source tree)"
