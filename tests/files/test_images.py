"""One reader of images: as mmcv reads them, whatever the file; and the files of a folder that are meant."""

from __future__ import annotations

import struct
from pathlib import Path

import mmcv
import numpy as np
import pytest
from PIL import Image

from pipa.files.convert import folder_stats
from pipa.files.images import DataError, read_color_label, read_image, read_label
from pipa.files.listing import IMAGE_SUFFIXES, find_files

ORIENTATION = 0x0112


def picture(mode: str = "RGB") -> Image.Image:
    y, x = np.mgrid[0:32, 0:48]
    return Image.fromarray(np.stack([5 * x, 7 * y, 3 * (x + y)], -1).clip(0, 255).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_as_mmcv_reads_it(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"a.{suffix}"
    picture().save(path, **({"tiffinfo": {ORIENTATION: orientation}} if suffix == "tif" else {"exif": exif}))
    ours, theirs = read_image(path), mmcv.imfrombytes(path.read_bytes(), flag="color")
    assert ours.shape == theirs.shape
    exact = suffix in ("png", "tif")
    assert np.abs(ours.astype(int) - theirs).max() <= (0 if exact else 12)


def test_a_damaged_exif_record_does_not_take_the_photo_away(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png", exif=b"Exif\0\0nonsense")
    assert read_image(tmp_path / "a.png").shape == (32, 48, 3)


def deep(path: Path, channels: int) -> Path:
    values = np.arange(32 * 48 * channels, dtype=np.uint16).reshape(32, 48, channels) * 13
    mmcv.imwrite(values if channels > 1 else values[..., 0], str(path))
    return path


@pytest.mark.parametrize("kind", ["L", "P", "RGBA", "LA", "1", "grey 16", "colour 16", "alpha 16"])
def test_other_kinds_are_refused_or_become_colour_as_mmcv_makes_them(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    if kind.endswith("16"):
        deep(path, {"grey 16": 1, "colour 16": 3, "alpha 16": 4}[kind])
    else:
        picture(kind).save(path)
    with pytest.raises(DataError, match=r"a\.png: expected .*convert=True"):
        read_image(path)
    assert np.array_equal(read_image(path, convert=True), mmcv.imfrombytes(path.read_bytes(), flag="color"))


def packed_tiff(path: Path, ids: np.ndarray, bits: int, photometric: int = 1) -> Path:
    """A TIFF of grey values of so many bits each, which Pillow reads but does not write."""
    values = "".join(f"{i:0{bits}b}" for i in ids.reshape(-1))
    pixels = bytes(int(values[i : i + 8], 2) for i in range(0, len(values), 8))
    height, width = ids.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", 9) + entries + bytes(4))
    return path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("half.tif", "floating"),
        ("large.tif", "32 bits"),
        ("small.tif", "32 bits"),
        ("12.tif", "12"),
        ("lab.tif", "LAB"),
    ],
)
def test_values_that_do_not_fit_eight_or_sixteen_bits_are_refused(tmp_path: Path, name: str, found: str) -> None:
    path = tmp_path / name
    if name == "12.tif":
        packed_tiff(path, np.full((4, 4), 4095), 12)
    elif name == "lab.tif":
        Image.new("LAB", (4, 4)).save(path)
    else:
        values = {"half": np.full((4, 4), 0.5, np.float32), "large": np.full((4, 4), 70000, np.int32)}
        Image.fromarray(values.get(path.stem, np.full((4, 4), 200, np.int32))).save(path)
    with pytest.raises(DataError, match=rf"{name}: expected .*{found}"):
        read_image(path, convert=True)


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0"])
def test_broken_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    for read in (read_image, read_label, read_color_label):
        with pytest.raises(DataError, match=r"bad\.png"):
            read(tmp_path / "bad.png")


def test_labels_in_formats_that_alter_values_are_refused(tmp_path: Path) -> None:
    for name, options in (("a.jpg", {}), ("a.webp", {}), ("a.jp2", {})):
        picture().save(tmp_path / name, **options)
        for read in (read_color_label, read_label):
            with pytest.raises(DataError, match=f"{name}: expected a lossless label"):
                read(tmp_path / name)
    for mode in ("L", "RGB"):
        picture(mode).save(tmp_path / "a.tif", compression="jpeg")
        for read in (read_color_label, read_label):
            with pytest.raises(
                DataError, match=r"a\.tif: expected a lossless label .*, found a TIFF compressed as JPEG"
            ):
                read(tmp_path / "a.tif")
    picture().save(tmp_path / "b.webp", lossless=True)
    assert read_color_label(tmp_path / "b.webp").shape == (32, 48)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_ids_of_a_tiff_are_read_as_they_are_stored(tmp_path: Path, bits: int) -> None:
    """Pillow stretches 2 and 4 bits to 0..255, and inverts what is WhiteIsZero."""
    ids = np.random.default_rng(0).integers(0, 2 ** min(bits, 8), (6, 16))
    path = packed_tiff(tmp_path / "a.tif", ids if bits < 16 else ids % 256 * 257, bits)  # the same in each byte order
    assert (read_label(path) == (ids if bits < 16 else ids * 257)).all()
    with pytest.raises(DataError, match=r"a\.tif: expected a label .*WhiteIsZero"):
        read_label(packed_tiff(tmp_path / "a.tif", ids, bits, photometric=0))


@pytest.mark.parametrize("head", [b"P5 16 6 %d ", b"P2 16 6 %d "])
def test_ids_of_a_pgm_are_read_as_they_are_stored(tmp_path: Path, head: bytes) -> None:
    ids = np.random.default_rng(0).integers(0, 4, (6, 16), dtype=np.uint8)
    path = tmp_path / "a.pgm"
    pixels = ids.tobytes() if head.startswith(b"P5") else " ".join(map(str, ids.reshape(-1))).encode()
    path.write_bytes(head % 255 + pixels)
    assert (read_label(path) == ids).all()
    path.write_bytes(head % 3 + pixels)
    with pytest.raises(DataError, match=r"a\.pgm: expected .* maxval 255 or 65535, found maxval 3"):
        read_label(path)
    Image.fromarray(ids > 1).save(tmp_path / "a.pbm")
    with pytest.raises(DataError, match=r"a\.pbm: expected .* found a PBM"):
        read_label(tmp_path / "a.pbm")


def test_traces_of_other_systems_are_no_images(tmp_path: Path) -> None:
    root = tmp_path / ".hidden" / "set"  # the data set itself may be hidden
    good = ["a.png", "town/b.png"]
    bad = ["._a.png", ".c.png", ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/town/._b.png", "@eaDir/a.png/x.png"]
    for name in good + bad:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture("L").save(root / name, "png")
    (root / "town" / "back").symlink_to(root)  # a circle
    (root / "Thumbs.db").write_bytes(b"x")
    assert list(find_files(root, ".png")) == good
    assert list(find_files(root, [".PNG"], ignore_case=True)) == good
    assert list(find_files(root, IMAGE_SUFFIXES, recursive=False)) == ["a.png"]
    assert len(folder_stats(root, progress=False)) == 2
    with pytest.raises(DataError, match=r"nothing.*cannot read this folder"):
        list(find_files(root / "nothing", ".png"))
