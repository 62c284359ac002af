"""Frames of a video file or a camera, through OpenCV."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
CAMERA = "camera:"


def is_camera(source: str) -> bool:
    """Is this ``camera:NUMBER``, or a number that is no file?"""
    return source.startswith(CAMERA) or (source.isdigit() and not Path(source).exists())


def is_video(source: str) -> bool:
    """Is this a camera or the name of a video file?"""
    return is_camera(source) or (Path(source).suffix.lower() in SUFFIXES and not Path(source).is_dir())


def name_of(source: str) -> str:
    """What the results are called: ``camera_0``, or the file's stem."""
    return f"camera_{source.removeprefix(CAMERA)}" if is_camera(source) else Path(source).stem


class Video:
    """Frames of a video as RGB arrays.

    Attributes:
        fps: frames per second as the file says; 25 where it does not.
        count: number of frames as the file says, 0 for a camera.

    Raises:
        ImportError: OpenCV is missing. ValueError: no such video or camera, or it cannot be decoded.
    """

    def __init__(self, source: str) -> None:
        self._cv2 = opencv()
        self.source = source
        if is_camera(source):
            number = source.removeprefix(CAMERA)
            if not number.isdigit():
                raise ValueError(f"{source}: expected {CAMERA}NUMBER, for example {CAMERA}0")
            self._capture: Any = self._cv2.VideoCapture(int(number))
        else:
            if not Path(source).is_file():
                raise ValueError(f"{source}: expected a video file, found no such file")
            self._capture = self._cv2.VideoCapture(source)
        if not self._capture.isOpened():
            raise ValueError(f"{source}: OpenCV cannot open it as a video or camera")
        self.fps = float(self._capture.get(self._cv2.CAP_PROP_FPS)) or 25.0
        self.count = max(int(self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT)), 0)

    def frames(self, limit: int | None = None) -> Iterator[npt.NDArray[np.uint8]]:
        """uint8 RGB ``(H, W, 3)``, at most `limit`. ValueError where not one can be read."""
        number = 0
        try:
            while limit is None or number < limit:
                good, frame = self._capture.read()
                if not good:
                    break
                number += 1
                yield np.ascontiguousarray(frame[:, :, ::-1])
        finally:
            self._capture.release()
        if number == 0 and limit != 0:
            raise ValueError(f"{self.source}: no frame can be decoded")


class Writer:
    """An MP4 file of RGB frames of one size; it takes its place when it is closed.

    The format has even sizes alone: an odd one gets its last row or column twice.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._cv2, self.path, self.fps = opencv(), path, fps
        self._part = path.with_name(f".{path.stem}.part{path.suffix}")
        self._writer: Any = None
        self._frames = 0

    def add(self, frame_hwc: npt.NDArray[np.uint8]) -> None:
        frame_hwc = np.pad(frame_hwc, ((0, frame_hwc.shape[0] % 2), (0, frame_hwc.shape[1] % 2), (0, 0)), mode="edge")
        height, width = frame_hwc.shape[:2]
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            code = self._cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = self._cv2.VideoWriter(str(self._part), code, self.fps, (width, height))
            if not self._writer.isOpened():
                raise ValueError(f"{self.path}: OpenCV cannot write MP4 here")
        self._writer.write(np.ascontiguousarray(frame_hwc[:, :, ::-1]))
        self._frames += 1

    def close(self) -> None:
        """Raises OSError where the file does not hold every frame: OpenCV says nothing of a full disk."""
        if self._writer is None:
            return
        self._writer.release()
        written = self._cv2.VideoCapture(str(self._part))
        found = max(int(written.get(self._cv2.CAP_PROP_FRAME_COUNT)), 0) if written.isOpened() else 0
        written.release()
        if found != self._frames:
            self._part.unlink(missing_ok=True)
            held = f"it holds {found} of {self._frames} frames; is the disk full?"
            raise OSError(f"{self.path}: the video could not be written whole, {held}")
        self._part.replace(self.path)

    def drop(self) -> None:
        """Leave nothing behind."""
        if self._writer is not None:
            self._writer.release()
            self._part.unlink(missing_ok=True)


def opencv() -> Any:
    try:
        return importlib.import_module("cv2")
    except ImportError as error:  # not installed, or a library of the system is missing
        raise ImportError(f"videos need OpenCV ({error}): pip install opencv-python-headless") from None
