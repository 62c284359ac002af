"""Reads one image or one label file, strictly: a file that is not exactly what training expects is an error that names
it. OpenCV, which mmcv uses, fills the missing rows of a truncated PNG with zeros, drops alpha, repeats grey channels
and shifts 16-bit values without a word.

Arrays are what mmseg's transforms take: images uint8 [H, W, 3] in BGR order, labels uint8 or uint16 [H, W].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipa import _core

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 0x0112
# What undoes an EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Formats whose compression changes values; WebP knows both kinds.
_LOSSY = ("JPEG", "MPO", "JPEG2000", "AVIF", "HEIF")
# The same inside a TIFF, by Pillow's names.
_LOSSY_IN_TIFF = {"jpeg": "JPEG", "tiff_jpeg": "old-style JPEG", "tiff_sgilog": "LogLuv", "tiff_sgilog24": "LogLuv"}
_SIXTEEN = ("I;16", "I;16B", "I;16L", "I;16N")
_INTEGERS = (*_SIXTEEN, "I")
# Formats whose grey values have 16 bits where Pillow calls them "I"; other formats then store 32 bits, or signed ones.
_SIXTEEN_AS_I = ("PNG", "PPM")
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
_WHITE_IS_ZERO = 0


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
    except OSError as error:
        if error.filename is not None and error.strerror:  # too long a name, a network disk that went away, ...
            raise DataError(f"{path}: cannot read this file ({error.strerror})") from None
        raise DataError(f"{path}: truncated or corrupt image ({error}; {size} bytes)") from None
    except Exception as error:  # decoders raise anything: SyntaxError, struct.error, DecompressionBombError, ...
        raise DataError(f"{path}: truncated or corrupt image ({error}; {size} bytes)") from None
    return image


def upright(image: Image.Image) -> Image.Image:
    """The picture as its EXIF orientation says it was held, which is how mmcv (OpenCV) reads a file.

    Only a file's own EXIF record counts, as there: not the copies in XMP or text. Pillow turns TIFFs by itself.
    """
    data = image.info.get("exif")
    if not data or image.format == "TIFF":
        return image
    exif = Image.Exif()
    try:
        exif.load(data)
        turn = _TURNS.get(exif.get(_ORIENTATION, 1))
    except Exception:  # a damaged record says nothing; the pixels are whole
        return image
    return image if turn is None else image.transpose(turn)


def _head(path: str | Path) -> bytes:
    """The first 26 bytes, which hold what a PNG is; empty where the file cannot be read (open_image says why)."""
    try:
        with open(path, "rb") as file:
            return file.read(26)
    except OSError:
        return b""


def bit_depth(path: str | Path) -> int:
    """Bits per sample of a PNG or TIFF; 8 for every other format. (Pillow reduces 16-bit RGB to 8 bits without saying
    so.)"""
    head = _head(path)
    if head[:8] == _PNG_MAGIC and len(head) > 24:
        return head[24]
    if head[:4] in (b"II*\0", b"MM\0*"):
        return _tiff_bits(open_image(path))
    return 8


def _tiff_bits(image: Any) -> int:
    return max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,)))


def _photometric(image: Any) -> int | None:
    return image.tag_v2.get(_PHOTOMETRIC)


def read_image(path: str | Path, convert: bool = False) -> np.ndarray:
    """Image as uint8 [H, W, 3], BGR, upright (see :func:`upright`).

    Args:
        convert: accept grey, palette, alpha, CMYK and 16-bit images and turn them into 8-bit colour (alpha is dropped,
            of 16 bits the high 8 are kept, both as OpenCV does); without it they are errors, because a data set that
            mixes them usually has a mistake in it.

    Raises:
        DataError: missing, empty, truncated or corrupt, or of another kind than asked for; the message names the file.
    """
    pixels, bgr = read_pixels(path, convert)
    return pixels if bgr else np.ascontiguousarray(pixels[:, :, ::-1])


def read_pixels(path: str | Path, convert: bool = False) -> tuple[np.ndarray, bool]:
    """As `read_image`, in the order of channels that costs nothing; and whether that is BGR (else RGB)."""
    if _head(path)[:8] == _PNG_MAGIC:
        try:
            pixels = _core.png_read_bgr(str(path))  # None: another kind of PNG, or one with an EXIF record
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
    return rgb_of(image, str(path)), False


def rgb_of(image: Image.Image, where: str) -> np.ndarray:
    """uint8 RGB [H, W, 3] of a decoded picture of any kind, upright: what ``read_image(path, convert=True)`` gives,
    for a file and for a PIL image alike.

    Args:
        where: the file or argument it came from, for messages.

    Raises:
        DataError: the values are not of 8 or 16 bits, or no colours can be made of them.
    """
    wanted = f"{where}: expected an image of 8 or 16 bits, found"
    if image.mode == "F":
        raise DataError(f"{wanted} floating-point values; convert it outside")
    if image.mode == "I" and image.format not in _SIXTEEN_AS_I:
        raise DataError(f"{wanted} integers of 32 bits or with a sign (Pillow's mode I); convert it outside")
    if image.mode in _SIXTEEN and image.format == "TIFF" and _tiff_bits(image) != 16:
        raise DataError(f"{wanted} {_tiff_bits(image)}; convert it outside")
    if image.mode == "LAB":  # Pillow's conversion is off by up to a third of the range
        raise DataError(f"{where}: expected an image with RGB, grey or CMYK values, found mode LAB; convert it outside")
    image = upright(image)
    if image.mode == "RGB":
        return np.asarray(image)
    if image.mode in _INTEGERS:  # Pillow would clip these at 255 instead of scaling them
        values = np.asarray(image).astype(np.int64)
        return np.repeat((values >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def lossy(path: str | Path, image: Image.Image) -> str | None:
    """The name of a format that alters values when it stores them, or None."""
    if image.format in _LOSSY:
        return image.format
    inner = image.info.get("compression") if image.format == "TIFF" else None
    if inner in _LOSSY_IN_TIFF:
        return f"a TIFF compressed as {_LOSSY_IN_TIFF[inner]}"
    if (image.format == "WEBP" or inner == "webp") and b"VP8L" not in Path(path).read_bytes():
        return "lossy WebP"
    return None


def count_stored(path: str | Path) -> dict[int, int]:
    """Pixels of each stored id of a label file (see :func:`read_label`). DataError names the file."""
    if _head(path)[:8] != _PNG_MAGIC:
        ids, pixels = np.unique(read_label(path), return_counts=True)
        return dict(zip(ids.tolist(), pixels.tolist(), strict=True))
    try:
        return dict(_core.label_summary(str(path))[2])
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from None


def read_label(path: str | Path) -> np.ndarray:
    """Label ids as stored: uint8 or uint16 [H, W]. A palette PNG gives its indices, never its colours."""
    head = _head(path)
    if head[:8] == _PNG_MAGIC and head[25:26] in (b"\0", b"\3"):  # grey or palette
        try:
            return _core.label_read(str(path))
        except (ValueError, OSError) as error:
            raise DataError(str(error)) from None
    image = _open_label(path)
    if image.mode in ("L", "P"):
        return np.array(image) // _scale(image)
    if image.mode == "1":
        return np.array(image).astype(np.uint8)
    if image.mode in _INTEGERS:
        label = np.asarray(image)
        if label.min() < 0 or label.max() > 65535:
            raise DataError(f"{path}: label ids must lie in 0..65535, found {label.min()}..{label.max()}")
        return label.astype(np.uint16)
    raise DataError(
        f"{path}: expected a label with one channel of ids (grey or palette PNG), found mode {image.mode} "
        f"({len(image.getbands())} channels); for labels stored as colours use FolderDataset(label_format='colors')"
    )


def _open_label(path: str | Path) -> Image.Image:
    image = open_image(path)
    name = lossy(path, image)
    if name is not None:
        raise DataError(
            f"{path}: expected a lossless label file (PNG), found {name}, whose compression alters ids and colours"
        )
    if image.format == "TIFF" and _photometric(image) == _WHITE_IS_ZERO:
        raise DataError(
            f"{path}: expected a label whose ids grow with the brightness, found a TIFF of the kind WhiteIsZero, which "
            "some programs read inverted and some do not; store it as PNG"
        )
    if image.format == "PPM":
        _check_ppm(path)
    return image


def _scale(image: Any) -> int:
    """By how much Pillow multiplies grey values of 2 or 4 bits, so that white is 255; 1 for all others."""
    bits = _tiff_bits(image) if image.format == "TIFF" and image.mode == "L" else 8
    return 255 // (2**bits - 1)


def _check_ppm(path: str | Path) -> None:
    """Pillow stretches the values of PGM and PPM files to 8 or 16 bits, and turns those of PBM round."""
    with Image.open(path) as unread:  # it says what is in the file only before it is decoded
        form = unread.tile[0].args
    if form == "1;I" or (isinstance(form, tuple) and form[-1] not in (255, 65535)):
        found = "a PBM of one bit" if form == "1;I" else f"maxval {form[-1]}"
        raise DataError(f"{path}: expected a PGM or PPM label with maxval 255 or 65535, found {found}; store it as PNG")


def read_color_label(path: str | Path) -> np.ndarray:
    """Colour-coded label as packed integers 0xRRGGBB, int32 [H, W]."""
    image = _open_label(path)
    if image.mode not in ("RGB", "P", "RGBA"):
        raise DataError(f"{path}: expected a label stored as RGB colours, found mode {image.mode}")
    if bit_depth(path) > 8:
        raise DataError(f"{path}: expected a label stored as RGB colours of 8 bits, found {bit_depth(path)} bits")
    rgb = np.asarray(image.convert("RGB")).astype(np.int32)
    return (rgb[:, :, 0] << 16) | (rgb[:, :, 1] << 8) | rgb[:, :, 2]


def list_ids(ids: np.ndarray, limit: int = 8) -> str:
    """'34, 35 and 3 more' for error messages."""
    shown = ", ".join(str(int(i)) for i in ids[:limit])
    return shown if len(ids) <= limit else f"{shown} and {len(ids) - limit} more"
