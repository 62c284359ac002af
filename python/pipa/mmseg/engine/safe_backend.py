"""The file backend of safe checkpoints, under the name that mmengine's hooks find it by."""

from __future__ import annotations

from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from pipa.files.atomic import verify, write

BACKEND = "pipa_safe"


class SafeBackend(LocalBackend):
    """Local files, written by :func:`pipa.files.atomic.write`; what it is told to remove goes at :meth:`flush`."""

    def __init__(self) -> None:
        self.outdated: list[Path] = []

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, lambda file: file.write(obj), verify)

    def remove(self, filepath: str | Path) -> None:
        self.outdated.append(Path(filepath))

    def flush(self, keep: Path) -> None:
        """Remove what was put off, now that `keep` is proved."""
        for path in self.outdated:
            if path.resolve() != keep.resolve():
                path.unlink(missing_ok=True)
        self.outdated.clear()


register_backend(BACKEND, SafeBackend, force=True)
