"""Reads one image or one label file, strictly: a file that is not exactly what training expects is an error that names
it. OpenCV, which mmcv uses, fills the missing rows of a truncated PNG with zeros, drops alpha, repeats grey channels
and shifts 16-bit values without a word.

Arrays are what mmseg's transforms take: images uint8 [H, W, 3] in BGR order, labels uint8 or uint16 [H, W].
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pipa import _core

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


class DataError(ValueError):
    """A data set or one of its files is not usable. The message names the file, what was expected and what came."""


def open_image(path: str | Path) -> Image.Image:
    """Decode a whole file with Pillow. Raises DataError for a missing, empty, truncated or corrupt file."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size == 0:
            raise DataError(f"{path}: expected an image, found an empty file (0 bytes)")
        image = Image.open(path)
        image.load()
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: expected an image file, found no such file") from None
    except PermissionError:
        raise DataError(f"{path}: no permission to read this file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: expected an image file, found a folder") from None
    except Image.UnidentifiedImageError:
        raise DataError(f"{path}: expected an image, found {size} bytes that are no known image format") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: truncated or corrupt image ({error}; {size} bytes)") from None
    return image


def _head(path: str | Path) -> bytes:
    """The first 26 bytes, which hold what a PNG is; empty where the file cannot be read (open_image says why)."""
    try:
        with open(path, "rb") as file:
            return file.read(26)
    except OSError:
        return b""


def bit_depth(path: str | Path) -> int:
    """Bits per sample of a PNG; 8 for every other format. (Pillow reduces 16-bit RGB to 8 bits without saying so.)"""
    head = _head(path)
    return head[24] if head[:8] == _PNG_MAGIC and len(head) > 24 else 8


def read_image(path: str | Path, convert: bool = False) -> np.ndarray:
    """Image as uint8 [H, W, 3], BGR.

    Args:
        convert: accept grey, palette, alpha, CMYK and 16-bit images and turn them into 8-bit colour; without it they
            are errors, because a data set that mixes them usually has a mistake in it.
    """
    pixels, bgr = read_pixels(path, convert)
    return pixels if bgr else np.ascontiguousarray(pixels[:, :, ::-1])


def read_pixels(path: str | Path, convert: bool = False) -> tuple[np.ndarray, bool]:
    """As `read_image`, in the order of channels that costs nothing; and whether that is BGR (else RGB)."""
    if _head(path)[:8] == _PNG_MAGIC:
        try:
            pixels = _core.png_read_bgr(str(path))
        except (ValueError, OSError) as error:
            raise DataError(str(error)) from None
        if pixels is not None:
            return pixels, True
    image = open_image(path)
    if not convert:
        if image.mode != "RGB":
            raise DataError(
                f"{path}: expected an RGB image with 3 channels, found mode {image.mode} "
                f"({len(image.getbands())} channel(s)); set convert=True on LoadImage to accept it"
            )
        depth = bit_depth(path)
        if depth > 8:
            raise DataError(
                f"{path}: expected 8 bits per channel, found {depth}; set convert=True on LoadImage to accept it"
            )
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):  # Pillow would clip these at 255 instead of scaling them
        grey = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2), True
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB")), False


def read_label(path: str | Path) -> np.ndarray:
    """Label ids as stored: uint8 or uint16 [H, W]. A palette PNG gives its indices, never its colours."""
    head = _head(path)
    if head[:8] == _PNG_MAGIC and head[25:26] in (b"\0", b"\3"):  # grey or palette
        try:
            return _core.label_read(str(path))
        except (ValueError, OSError) as error:
            raise DataError(str(error)) from None
    image = open_image(path)
    if image.format == "JPEG":
        raise DataError(f"{path}: expected a lossless label file (PNG), found a JPEG, which alters label ids")
    if image.mode in ("L", "P"):
        return np.array(image)
    if image.mode == "1":
        return np.array(image).astype(np.uint8)
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        label = np.asarray(image)
        if label.min() < 0 or label.max() > 65535:
            raise DataError(f"{path}: label ids must lie in 0..65535, found {label.min()}..{label.max()}")
        return label.astype(np.uint16)
    raise DataError(
        f"{path}: expected a label with one channel of ids (grey or palette PNG), found mode {image.mode} "
        f"({len(image.getbands())} channels); for labels stored as colours use FolderDataset(label_format='colors')"
    )


def read_color_label(path: str | Path) -> np.ndarray:
    """Colour-coded label as packed integers 0xRRGGBB, int32 [H, W]."""
    image = open_image(path)
    if image.mode not in ("RGB", "P", "RGBA"):
        raise DataError(f"{path}: expected a label stored as RGB colours, found mode {image.mode}")
    rgb = np.asarray(image.convert("RGB")).astype(np.int32)
    return (rgb[:, :, 0] << 16) | (rgb[:, :, 1] << 8) | rgb[:, :, 2]


def list_ids(ids: np.ndarray, limit: int = 8) -> str:
    """'34, 35 and 3 more' for error messages."""
    shown = ", ".join(str(int(i)) for i in ids[:limit])
    return shown if len(ids) <= limit else f"{shown} and {len(ids) - limit} more"
