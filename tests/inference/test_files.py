"""What people point `pipa predict` at: broken files, two files of one name, folders with results in them, any size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmseg")

import pipa
from pipa.commands import cli
from pipa.inference.results import names
from pipa.mmseg.checkpoints.description import describe
from pipa.mmseg.run.train import load_config
from small_segmentors import checkpoint, scene, shrink


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    config = shrink(load_config("toy_pipa"))
    return checkpoint(config, tmp_path_factory.mktemp("model") / "random.pth", describe(config))


@pytest.fixture
def predict(model: Path) -> Callable[..., int]:
    return lambda images, *options: cli.main(["predict", str(model), str(images), *map(str, options)])


def save(path: Path, height: int = 20, width: int = 30, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene(height, width, seed)).save(path)
    return path


def results(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_problems_are_listed_at_the_end_and_the_others_written(
    predict: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    save(photos / "good.png")
    Image.fromarray(scene(20, 30)[:, :, 0]).save(photos / "grey.png")
    Image.fromarray(np.dstack([scene(20, 30), np.full((20, 30), 9, np.uint8)])).save(photos / "rgba.png")
    Image.fromarray((np.arange(600).reshape(20, 30) * 100).astype(np.uint16)).save(photos / "sixteen.png")
    Image.fromarray(scene(20, 30)).convert("CMYK").save(photos / "cmyk.jpg")
    Image.fromarray(scene(20, 30)).convert("P").save(photos / "palette.png")
    (photos / "broken.jpg").write_bytes(save(tmp_path / "whole.jpg").read_bytes()[:200])
    (photos / "empty.png").write_bytes(b"")
    (photos / "text.tiff").write_text("no picture")
    assert predict(photos, "--out", out, "--report") == 1
    stems = ("cmyk", "good", "grey", "palette", "rgba", "sixteen")
    assert results(out) == {"index.html", *(f"{s}_{kind}.png" for s in stems for kind in ("label", "overlay"))}
    told = capsys.readouterr()
    assert "6 image(s) segmented" in told.out
    lines = told.err.splitlines()
    assert lines[0] == "pipa predict: 3 file(s) could not be segmented:"
    for line, (name, reason) in zip(
        lines[1:],
        {"broken.jpg": "truncated", "empty.png": "empty file", "text.tiff": "no known image"}.items(),
        strict=True,
    ):
        assert line.startswith(f"  {photos / name}: ")
        assert reason in line
    page = (out / "index.html").read_text()
    assert page.count("<figure>") == 12
    assert all(name in page for name in ("broken.jpg", "empty.png", "text.tiff"))


def test_two_files_of_one_name_give_four_results(predict: Callable[..., int], model: Path, tmp_path: Path) -> None:
    for i, name in enumerate(("a.jpg", "a.png", "a_jpg.png", "A.bmp")):
        save(tmp_path / "in" / name, 20 + i, 30, i)
    out = tmp_path / "out"
    assert predict(tmp_path / "in", "--out", out) == 0
    labels = sorted(out.glob("*_label.png"))
    assert len(labels) == 4
    assert {Image.open(path).size[1] for path in labels} == {20, 21, 22, 23}
    assert (out / "a_jpg_label.png").exists()
    assert Image.open(out / "a_jpg_label.png").size[1] == 22  # the file whose own name it is


def test_names_never_meet() -> None:
    root = Path("in")
    files = [root / n for n in ("a.jpg", "a.png", "A.jpeg", "a_jpg.png", "a_jpg.bmp", "a_png_bmp.png", "sub/a.jpg")]
    chosen = names(files, root)
    assert set(chosen) == set(files)
    assert len({str(name).lower() for name in chosen.values()}) == len(files)
    assert chosen[root / "sub/a.jpg"] == Path("sub/a")


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(
    "kind", ["8 bits", "16 bits", "colour 16 bits", "32 bits", "floats", "palette", "alpha", "held"]
)
def test_a_file_and_the_pil_image_of_it_are_one_picture(kind: str, suffix: str, model: Path, tmp_path: Path) -> None:
    colours, path = scene(20, 30), tmp_path / f"a.{suffix}"
    grey = colours[:, :, 0]
    deep = {"8 bits": grey, "16 bits": grey.astype(np.uint16) * 257, "colour 16 bits": colours.astype(np.uint16) * 257}
    if kind in deep:
        cv2.imwrite(str(path), deep[kind])
    elif kind in ("32 bits", "floats"):
        if suffix == "png":
            pytest.skip("a PNG holds neither")
        Image.fromarray(grey.astype(np.int32) if kind == "32 bits" else (grey / 255).astype(np.float32)).save(path)
    else:
        image = Image.fromarray(colours).convert({"palette": "P", "alpha": "RGBA", "held": "RGB"}[kind])
        exif = Image.Exif()
        if kind == "held":
            exif[0x0112] = 6
        image.save(path, exif=exif)
    segmenter = pipa.load(model)
    if kind in ("32 bits", "floats"):
        for source, name in ((path, r"a\.tif"), (Image.open(path), "image"), (Image.open(path).copy(), "image")):
            with pytest.raises(ValueError, match=f"{name}: expected an image of 8 or 16 bits"):
                segmenter.predict(source)
        return
    expected = segmenter.predict(path)
    for source in (Image.open(path), Image.open(path).copy()):
        found = segmenter.predict(source)
        assert np.array_equal(found.image_hwc, expected.image_hwc)
        assert np.array_equal(found.label_hw, expected.label_hw)
    if kind.endswith("bits") and "colour" not in kind:
        assert np.array_equal(expected.image_hwc[:, :, 0], grey)


@pytest.mark.parametrize("inside", ["predictions", "."])
def test_results_are_never_inputs(inside: str, predict: Callable[..., int], tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    save(photos / "a.png")
    save(photos / "sub" / "b.jpg")
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    for _ in range(2):
        assert predict(photos, "--out", photos / inside, "--confidence", "--report") == 0
        found = results(photos) - {path.relative_to(photos).as_posix() for path in before}
        assert len(found) == 7
    assert predict(photos, "--out", tmp_path / "elsewhere") == 0  # the results in the folder are passed over
    assert len(results(tmp_path / "elsewhere")) == 4
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_result_replaces_no_other_file(
    predict: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    save(photos / "a.png")
    kept = save(photos / "a_label.png", seed=3).read_bytes()  # a picture of somebody's
    assert predict(photos, "--out", photos) == 1
    assert (photos / "a_label.png").read_bytes() == kept
    assert "a_label.png: is there and no result of a prediction" in capsys.readouterr().err
    assert predict(photos / "a_label_overlay.png") == 1  # a result is no picture
    assert "is the result of an earlier prediction" in capsys.readouterr().err


def test_foreign_files_are_passed_over(predict: Callable[..., int], tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / ".ipynb_checkpoints" / "a-checkpoint.png")
    (tmp_path / "in" / "._a.png").write_bytes(b"resource fork")
    assert predict(tmp_path / "in", "--out", tmp_path / "out") == 0
    assert results(tmp_path / "out") == {"a_label.png", "a_overlay.png"}


@pytest.mark.parametrize("config", ["toy_pipa", "gta2cs_daformer_pipa", "gta2cs_hrda_pipa"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (257, 2), (33, 47)])
def test_any_size(config: str, size: tuple[int, int], tmp_path: Path) -> None:
    small = shrink(load_config(config))
    segmenter = pipa.load(checkpoint(small, tmp_path / "random.pth", describe(small)))
    prediction = segmenter.predict(save(tmp_path / "a.png", *size))
    assert prediction.label_hw.shape == prediction.confidence_hw.shape == size
    assert 0 < prediction.confidence_hw.min() <= prediction.confidence_hw.max() <= 1
    assert prediction.overlay(legend=True).shape[0] > size[0]


def test_a_window_bounds_the_pass_of_a_large_picture(model: Path, tmp_path: Path) -> None:
    segmenter = pipa.load(model)
    seen: list[tuple[int, ...]] = []
    inner = segmenter.network.logits
    segmenter.network.logits = lambda inputs, meta: (seen.append(tuple(inputs.shape)), inner(inputs, meta))[1]  # type: ignore[method-assign]
    window = pipa.inference.Window((64, 64), (64, 64))
    prediction = segmenter.predict(scene(1024, 1024), window=window)
    assert set(seen) == {(1, 3, 64, 64)}
    assert len(seen) == 256
    alone = segmenter.predict(scene(1024, 1024)[:64, :64])
    np.testing.assert_array_equal(prediction.label_hw[:64, :64], alone.label_hw)
    with pytest.raises(TypeError, match=r"^window: expected pipa.inference.Window\(crop=.*got \(64, 64\)$"):
        segmenter.predict(scene(64, 64), window=(64, 64))  # type: ignore[arg-type]


def test_batches_views_and_lists(model: Path, tmp_path: Path) -> None:
    segmenter = pipa.load(model, weights="teacher")
    files = [save(tmp_path / f"{i}.png", 20 + 4 * (i // 2), 30, i) for i in range(5)]
    single = [segmenter.predict(file) for file in files]
    for several in (segmenter.predict(files, batch_size=2), segmenter.predict(tmp_path, batch_size=3)):
        assert [p.path for p in several] == files
        for one, other in zip(single, several, strict=True):
            assert (one.label_hw == other.label_hw).mean() > 0.99  # batches round differently
            np.testing.assert_allclose(one.confidence_hw, other.confidence_hw, atol=1e-4)
    image = scene(24, 32)
    both = segmenter.predict(image, flip=True)
    mirrored = segmenter.predict(np.ascontiguousarray(image[:, ::-1]), flip=True)
    np.testing.assert_array_equal(both.label_hw, mirrored.label_hw[:, ::-1])
    assert segmenter.predict(image, scales=(0.5, 1.0, 1.5)).label_hw.shape == (24, 32)
    for scales in ((float("nan"),), (1.0, float("inf")), (0.0,), ()):
        with pytest.raises(ValueError, match="scales: expected positive factors"):
            segmenter.predict(image, scales=scales)
    with pytest.raises(ValueError, match="expected uint8 values"):
        segmenter.predict(image.astype(np.float32))


def test_a_video_gives_a_video(predict: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (64, 48))
    for i in range(4):
        writer.write(scene(48, 64, i)[:, :, ::-1].copy())
    writer.release()
    out = tmp_path / "out"
    assert predict(path, "--out", out, "--frames", 3) == 0
    read = cv2.VideoCapture(str(out / "drive_overlay.mp4"))
    assert int(read.get(cv2.CAP_PROP_FRAME_COUNT)) == 3
    good, frame = read.read()
    assert good
    assert frame.shape == (48, 64, 3)
    assert predict(path, "--out", out) == 1
    assert "is there already" in capsys.readouterr().err
    (tmp_path / "no.mp4").write_bytes(b"no video")
    assert predict(tmp_path / "no.mp4", "--out", out) == 1
    assert "no.mp4" in capsys.readouterr().err


class Camera:
    """What OpenCV gives for a camera: frames without end, BGR, no length and no rate."""

    last = 10**6  # Ctrl-C is pressed while this frame is waited for

    def __init__(self, number: int) -> None:
        self.number, self.count = number, 0

    def isOpened(self) -> bool:
        return self.number == 0

    def get(self, _: int) -> float:
        return 0.0

    def read(self) -> tuple[bool, np.ndarray]:
        self.count += 1
        if self.count > self.last:
            raise KeyboardInterrupt
        return True, scene(48, 64, self.count)[:, :, ::-1].copy()

    def release(self) -> None:
        self.count = -1


@pytest.mark.parametrize("source", ["0", "camera:0"])
def test_a_camera_gives_a_video(
    source: str,
    predict: Callable[..., int],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cv2 = pytest.importorskip("cv2")
    real = cv2.VideoCapture
    written: list[np.ndarray] = []
    add = pipa.inference.video.Writer.add
    monkeypatch.setattr(cv2, "VideoCapture", lambda place: Camera(place) if isinstance(place, int) else real(place))
    monkeypatch.setattr(
        pipa.inference.video.Writer, "add", lambda self, frame: (written.append(frame), add(self, frame))[1]
    )
    monkeypatch.chdir(tmp_path)
    assert predict(source, "--frames", 2, "--out", "two") == 0
    monkeypatch.setattr(Camera, "last", 3)
    assert predict(source, "--out", "three") == 0  # ended by Ctrl-C: what was seen is kept
    for out, frames in (("two", 2), ("three", 3)):
        read = real(str(tmp_path / out / "camera_0_overlay.mp4"))
        assert int(read.get(cv2.CAP_PROP_FRAME_COUNT)) == frames
    segmenter = pipa.load(model)
    for frame, number in zip(written, (1, 2, 1, 2, 3), strict=True):
        np.testing.assert_array_equal(frame, segmenter.predict(scene(48, 64, number)).overlay())
    assert predict("camera:7", "--out", "seven") == 1
    assert "camera:7: OpenCV cannot open it" in capsys.readouterr().err
    assert predict("camera:x", "--out", "x") == 1
    assert "expected camera:NUMBER" in capsys.readouterr().err


def test_a_number_that_is_a_folder_is_a_folder(
    predict: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "7" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert predict("7", "--out", "out") == 0
    assert results(tmp_path / "out") == {"a_label.png", "a_overlay.png"}


def test_a_foreign_page_is_refused_before_anything_is_segmented(
    predict: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "in" / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("mine")
    assert predict(tmp_path / "in", "--out", tmp_path / "out", "--report") == 1
    assert "index.html: is there and no page of pipa" in capsys.readouterr().err
    assert results(tmp_path / "out") == {"index.html"}
    assert (tmp_path / "out" / "index.html").read_text() == "mine"


def test_a_very_large_picture_is_segmented_and_one_that_may_be_an_attack_is_told(
    predict: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    """Pillow warns above its limit and refuses above twice of it."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    save(tmp_path / "photos" / "large.jpg", 30, 40)
    save(tmp_path / "photos" / "huge.jpg", 40, 60)
    assert predict(tmp_path / "photos", "--out", tmp_path / "out") == 1
    assert results(tmp_path / "out") == {"large_label.png", "large_overlay.png"}
    assert "huge.jpg: " in capsys.readouterr().err
    assert not [w for w in recwarn if issubclass(w.category, Image.DecompressionBombWarning)]
