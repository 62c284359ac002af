"""Build backend: maturin's, and the torch that a wheel was compiled against is pinned in the wheel's metadata.

`pip install .` compiles against the default torch of pyproject.toml ([tool.pipa] torch) or against the one named by the
variable PIPA_TORCH; `pip install --no-build-isolation .` against the torch that is installed.
`python tools/build_backend.py dist` (`make wheel`) writes a wheel for an index: its version carries the torch
(0.2.0+torch2.15) and its tag is the oldest manylinux that its symbols allow, as auditwheel finds it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import maturin

ROOT = Path(__file__).resolve().parent.parent
# libtorch comes with torch: a wheel that bundled it would load a second one.
OUTSIDE = ("libtorch*.so", "libc10*.so", "libcudart*.so*", "libshm*.so")

build_sdist = maturin.build_sdist
get_requires_for_build_sdist = maturin.get_requires_for_build_sdist


def wanted_torch() -> str:
    """The torch that an isolated build installs."""
    default = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pipa"]["torch"]
    return os.environ.get("PIPA_TORCH", default)


def installed_torch() -> str:
    """The torch of this environment, without its local suffix."""
    return metadata.version("torch").split("+")[0]


def pin(text: str, torch: str) -> str:
    """METADATA whose requirement of torch is exactly the one that was built against."""
    pinned, count = re.subn(r"(?m)^Requires-Dist: torch\b(?!\w)[^;\n]*$", f"Requires-Dist: torch=={torch}", text)
    if count != 1:
        raise RuntimeError(f"METADATA: expected one requirement of torch, found {count}")
    return pinned


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    # setuptools: torch.utils.cpp_extension, which torch-sys asks for the include folders, imports it.
    own = [f"torch=={wanted_torch()}", "numpy", "setuptools", "wheel>=0.43"]
    return [*maturin.get_requires_for_build_wheel(config_settings), *own]


get_requires_for_build_editable = get_requires_for_build_wheel


def prepare_metadata_for_build_wheel(folder: str, config_settings: Any = None) -> str:
    name = maturin.prepare_metadata_for_build_wheel(folder, config_settings)
    file = Path(folder, name, "METADATA")
    file.write_text(pin(file.read_text(encoding="utf-8"), installed_torch()), encoding="utf-8")
    return name


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def build_wheel(folder: str, config_settings: Any = None, metadata_directory: Any = None) -> str:
    return edit(Path(folder, maturin.build_wheel(folder, config_settings)), installed_torch()).name


def build_editable(folder: str, config_settings: Any = None, metadata_directory: Any = None) -> str:
    return edit(Path(folder, maturin.build_editable(folder, config_settings)), installed_torch()).name


def edit(wheel: Path, torch: str, label: str = "") -> Path:
    """Pin torch in a wheel and add a label to its version; `wheel` repacks it with new checksums."""
    with tempfile.TemporaryDirectory() as scratch:
        _wheel("unpack", str(wheel), "--dest", scratch)
        (tree,) = Path(scratch).iterdir()
        (info,) = tree.glob("*.dist-info")
        file = info / "METADATA"
        text = pin(file.read_text(encoding="utf-8"), torch)
        if label:
            name, version = info.name.removesuffix(".dist-info").split("-")
            text = text.replace(f"\nVersion: {version}\n", f"\nVersion: {version}{label}\n", 1)
            info = info.rename(tree / f"{name}-{version}{label}.dist-info")
        (info / "METADATA").write_text(text, encoding="utf-8")
        wheel.unlink()
        _wheel("pack", str(tree), "--dest-dir", str(wheel.parent))
        tag = "-".join(wheel.stem.split("-")[2:])
        version_part = re.escape(info.name.removesuffix(".dist-info"))
        return next(w for w in wheel.parent.glob("*.whl") if re.fullmatch(f"{version_part}-{re.escape(tag)}", w.stem))


def _wheel(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "wheel", *arguments], check=True, stdout=subprocess.DEVNULL)


def release(out: Path) -> Path:
    """A wheel for an index, in ``out``: labelled with its torch, tagged and checked by auditwheel, without libtorch."""
    torch = installed_torch()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        built = edit(Path(scratch, maturin.build_wheel(scratch)), torch, f"+torch{'.'.join(torch.split('.')[:2])}")
        if sys.platform != "linux":
            return built.rename(out / built.name)
        excluded = [word for pattern in OUTSIDE for word in ("--exclude", pattern)]
        command = [sys.executable, "-m", "auditwheel", "repair", *excluded, "--wheel-dir", str(out), str(built)]
        subprocess.run(command, check=True)
    return max(out.glob("*.whl"), key=lambda file: file.stat().st_mtime)


if __name__ == "__main__":
    wheel = release(Path(sys.argv[1] if len(sys.argv) > 1 else "dist"))
    print(f"{wheel}  {wheel.stat().st_size / 1e6:.2f} MB")
