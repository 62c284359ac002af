"""PNGs of every kind are read as they were written and as Pillow reads them; damage is an error that names the file."""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipa.files.convert import convert_labels
from pipa.files.images import DataError, read_image, read_label

GREY, RGB, PALETTE, RGBA = 0, 2, 3, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, RGBA: 4}
# First row, first column, step of rows, step of columns of the seven passes of an interlaced file.
PASSES = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
SIZE = (37, 29)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def packed(row: np.ndarray, depth: int) -> np.ndarray:
    """The bytes of a row of samples."""
    if depth == 16:
        return row.astype(">u2").view(np.uint8)
    bits = np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - depth :]
    return np.packbits(bits)


def filtered(rows: list[np.ndarray], step: int) -> bytes:
    """Rows of bytes with the filters 0 to 4 in turn, each by its definition."""
    out, above = b"", np.zeros_like(rows[0])
    for number, row in enumerate(rows):
        left, corner = (np.concatenate([np.zeros(step, np.uint8), line])[: len(line)] for line in (row, above))
        a, b, c = left.astype(int), above.astype(int), corner.astype(int)
        to = [np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)]
        paeth = np.where((to[0] <= to[1]) & (to[0] <= to[2]), a, np.where(to[1] <= to[2], b, c))
        predicted = [np.zeros_like(a), a, b, (a + b) // 2, paeth][number % 5]
        out += bytes([number % 5]) + ((row - predicted) % 256).astype(np.uint8).tobytes()
        above = row
    return out


def write(path: Path, samples: np.ndarray, colour: int, depth: int, interlaced: bool, pieces: int = 3) -> None:
    """Samples [H, W, C] as a PNG, the compressed data in several chunks."""
    height, width = samples.shape[:2]
    step = max(1, CHANNELS[colour] * depth // 8)
    stream = b""
    for top, left, down, across in PASSES if interlaced else [(0, 0, 1, 1)]:
        part = samples[top::down, left::across]
        if part.size:
            stream += filtered([packed(row.reshape(-1), depth) for row in part], step)
    data = zlib.compress(stream, 6)
    cuts = [len(data) * i // pieces for i in range(pieces + 1)]
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    palette = b"" if colour != PALETTE else chunk(b"PLTE", bytes(range(3)) * min(256, 1 << depth))
    body = b"".join(chunk(b"IDAT", data[a:b]) for a, b in pairwise(cuts))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + body + chunk(b"IEND", b""))


def draw(colour: int, depth: int, seed: int = 0) -> np.ndarray:
    """Smooth parts, runs and noise, so that every filter meets every neighbour."""
    generator = np.random.default_rng(seed)
    shape = (*SIZE, CHANNELS[colour])
    noise = generator.integers(0, 1 << depth, shape)
    runs = np.broadcast_to(generator.integers(0, 1 << depth, (SIZE[0], 1, 1)), shape)
    return np.where(np.arange(SIZE[1])[None, :, None] < 12, runs, noise).astype(np.uint16)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_colour(seed: int, interlaced: bool, tmp_path: Path) -> None:
    path, samples = tmp_path / "a.png", draw(RGB, 8, seed)
    write(path, samples, RGB, 8, interlaced, pieces=1 + seed)
    assert np.array_equal(np.asarray(Image.open(path)), samples)
    assert np.array_equal(read_image(path), samples[..., ::-1])


@pytest.mark.parametrize(("colour", "depth"), [(GREY, 8), (GREY, 16), (PALETTE, 8), (RGB, 16), (RGBA, 8), (RGBA, 16)])
@pytest.mark.parametrize("interlaced", [False, True])
def test_other_images_become_colour(colour: int, depth: int, interlaced: bool, tmp_path: Path) -> None:
    path, samples = tmp_path / "a.png", draw(colour, depth)
    write(path, samples, colour, depth, interlaced)
    with pytest.raises(DataError, match=r"a\.png: expected .*convert=True"):
        read_image(path)
    high = samples >> (depth - 8)
    expected = samples % 3 if colour == PALETTE else high
    if colour == PALETTE:  # colour i of the palette is (0, 1, 2)
        expected = np.broadcast_to(np.arange(3), (*SIZE, 3))
    expected = np.repeat(expected, 3, axis=2) if expected.shape[2] == 1 else expected[..., :3]
    assert np.array_equal(read_image(path, convert=True), expected[..., ::-1])


@pytest.mark.parametrize(("colour", "depth"), [*product([GREY], [1, 2, 4, 8, 16]), *product([PALETTE], [1, 2, 4, 8])])
@pytest.mark.parametrize("interlaced", [False, True])
def test_labels_are_the_ids_as_stored(colour: int, depth: int, interlaced: bool, tmp_path: Path) -> None:
    path, samples = tmp_path / "a.png", draw(colour, depth)
    write(path, samples, colour, depth, interlaced)
    ids = read_label(path)
    assert ids.dtype == (np.uint16 if depth == 16 else np.uint8)
    assert np.array_equal(ids, samples[..., 0])
    if depth in (8, 16):  # Pillow spreads the values of fewer bits over 0..255
        assert np.array_equal(ids, np.asarray(Image.open(path)))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "depth"), product([RGB, RGBA], [8, 16]))
def test_the_class_in_red(colour: int, depth: int, interlaced: bool, tmp_path: Path) -> None:
    """SYNTHIA's labels; class 3 is train id 0, 4 is 1, 2 is 2 ..., unknown ids are ignored."""
    path = tmp_path / "GT/LABELS/0.png"
    path.parent.mkdir(parents=True)
    samples = draw(colour, depth)
    samples[..., 0] = np.random.default_rng(1).integers(0, 5, SIZE)
    write(path, samples, colour, depth, interlaced)
    convert_labels("synthia", tmp_path, workers=1)
    expected = np.array([255, 10, 2, 0, 1], np.uint8)[samples[..., 0]]
    assert np.array_equal(read_label(path.with_name("0_labelTrainIds.png")), expected)


@pytest.mark.parametrize("colour", [RGB, GREY])
def test_any_damage_is_an_error_that_names_the_file(colour: int, tmp_path: Path) -> None:
    path, read = tmp_path / "a.png", read_image if colour == RGB else read_label
    write(path, draw(colour, 8), colour, 8, interlaced=False)
    whole = path.read_bytes()
    expected = read(path)
    generator = np.random.default_rng(0)
    for case in range(300):
        damaged = bytearray(whole)
        if case % 3 == 0:
            del damaged[generator.integers(0, len(whole)) :]
        else:
            for at in generator.integers(8, len(whole), case % 3):
                damaged[at] ^= 1 << generator.integers(0, 8)
        if damaged == whole:
            continue
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.png: "):
            read(path)
    path.write_bytes(whole)
    assert np.array_equal(read(path), expected)
