"""Pictures and the report: right colours at the right places, one file without outside links, clear refusals."""

from __future__ import annotations

import base64
import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipa import toy, viz

PALETTE = ((10, 20, 30), (200, 100, 50))
IMAGE = np.full((6, 8, 3), 100, np.uint8)


def test_colorize_paints_each_id_and_leaves_the_ignored_black() -> None:
    label = np.array([[0, 1], [255, 1]], np.uint8)
    expected = [[PALETTE[0], PALETTE[1]], [(0, 0, 0), PALETTE[1]]]
    np.testing.assert_array_equal(viz.colorize(label, PALETTE), expected)
    np.testing.assert_array_equal(viz.colorize(torch.from_numpy(label).long(), PALETTE), expected)
    np.testing.assert_array_equal(
        viz.colorize(np.array([[-1, 0]]), PALETTE, ignore_index=-1)[0], [(0, 0, 0), PALETTE[0]]
    )


def test_overlay_mixes_by_opacity_and_keeps_ignored_pixels() -> None:
    label = np.full((6, 8), 1)
    label[0, 0] = 255
    picture = viz.overlay(IMAGE, label, PALETTE, opacity=0.25)
    np.testing.assert_array_equal(picture[0, 0], IMAGE[0, 0])
    np.testing.assert_array_equal(picture[1, 1], np.rint(0.75 * 100 + 0.25 * np.array(PALETTE[1])))


def test_heat_is_dark_to_bright_and_clips() -> None:
    picture = viz.heat(np.array([[0.0, 0.5, 1.0, 7.0, np.nan]])).astype(int).sum(-1)[0]
    assert picture[0] < picture[1] < picture[2] == picture[3]
    assert picture[4] == 3 * 128


def test_outline_marks_both_boxes_and_their_overlap() -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    picture = viz.outline(image, [(2, 4, 30, 34), (10, 20, 38, 56)], colors=[(255, 0, 0), (0, 0, 255)])
    np.testing.assert_array_equal(picture[2, 10], (255, 0, 0))
    np.testing.assert_array_equal(picture[37, 50], (0, 0, 255))
    np.testing.assert_array_equal(picture[10, 25], (255, 255, 255))
    np.testing.assert_array_equal(picture[20, 27], image[0, 0])  # in the overlap
    assert picture[20, 10, 0] < 200  # in one box
    assert picture[0, 59, 0] < picture[20, 10, 0]  # in none
    apart = viz.outline(image, [(0, 0, 10, 10), (20, 20, 30, 30)])
    assert not (apart == 255).all(-1).any()


def test_denormalize_undoes_normalisation() -> None:
    image, _ = toy.draw("source", 0, height=32, width=48)
    mean, std = (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)
    network_input = (
        torch.from_numpy(image).permute(2, 0, 1).float() - torch.tensor(mean)[:, None, None]
    ) / torch.tensor(std)[:, None, None]
    np.testing.assert_array_equal(viz.denormalize(network_input, mean, std), image)


def test_palettes() -> None:
    assert viz.palette_of("Dark Zurich".replace(" ", "_"), 19)[13] == (0, 0, 142)
    assert viz.palette_of("toy", 9) == toy.PALETTE
    made = viz.palette_of(None, 40)
    assert len(set(made)) == 40
    with pytest.raises(ValueError, match="mars"):
        viz.palette_of("mars", 3)
    with pytest.raises(ValueError, match="20"):
        viz.palette_of("gta", 20)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: viz.colorize(np.array([[7]]), PALETTE), "id 7 has no colour"),
        (lambda: viz.colorize(np.zeros((2, 2)), PALETTE), r"integers of shape \(H, W\), got float64"),
        (lambda: viz.overlay(IMAGE, np.zeros((6, 7), int), PALETTE), r"image's size \(6, 8\), got \(6, 7\)"),
        (lambda: viz.overlay(IMAGE / 255, np.zeros((6, 8), int), PALETTE), "expected uint8"),
        (lambda: viz.heat(np.zeros(3)), r"expected shape \(H, W\)"),
        (lambda: viz.denormalize(np.zeros((1, 4, 4)), (0,), (1,)), r"\(3, H, W\)"),
        (lambda: viz.step_panels({"sauce_image": IMAGE}, PALETTE), "sauce_image"),
        (lambda: viz.Panel("a", np.zeros((2, 2), np.uint8)), "panel 'a'"),
        (lambda: viz.SeedTable(["0", "1"], {"PiPa": [1.0]}), "1 values for 2 seeds"),
    ],
)
def test_bad_input_is_named(call: object, words: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=words):
        call()


def test_save_prediction_writes_ids_and_overlay(tmp_path: Path) -> None:
    image, label = toy.draw("target", 1, height=64, width=128)
    overlay, ids = viz.save_prediction(tmp_path / "new", "street", image, label, toy.PALETTE)
    assert [p.name for p in (overlay, ids)] == ["street_overlay.png", "street_label.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(ids)), label)
    np.testing.assert_array_equal(np.asarray(Image.open(overlay)), viz.overlay(image, label, toy.PALETTE))
    with_names, _ = viz.save_prediction(tmp_path, "street", image, label, toy.PALETTE, toy.CLASSES)
    picture = np.asarray(Image.open(with_names))
    assert picture.shape[0] > 64
    assert picture.shape[1] == 128
    legend = {tuple(int(v) for v in color) for color in picture[64:].reshape(-1, 3)}
    present = {toy.PALETTE[c] for c in np.unique(label)}
    assert present <= legend
    assert not (set(toy.PALETTE) - present) & legend


class _Page(HTMLParser):
    """Collects text, addresses and open tags."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [
            value or "" for key, value in attrs if key in ("src", "href") and not (value or "").startswith("#")
        ]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [
            value or "" for key, value in attrs if key in ("src", "href") and not (value or "").startswith("#")
        ]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _report(path: Path) -> Path:
    curve = [(i, 3.0 / (1 + i / 50)) for i in range(0, 1000, 2)]
    runs = [
        viz.Run("source-only", [50.0, 10.0], [(100, 20.0), (200, 30.0)], {"loss_ce": curve}, seconds=65),
        viz.Run("PiPa <b>", [70.0, None], [(100, 25.0), (200, 45.0)], {"loss_ce": curve, "loss_patch": curve}),
    ]
    step = viz.step_panels(
        {
            "source_image": IMAGE,
            "source_label": np.zeros((6, 8), int),
            "mixed_image": IMAGE,
            "mixed_weight": np.ones((6, 8)),
            "patch_boxes": [(0, 0, 4, 4), (2, 2, 6, 6)],
        },
        PALETTE,
    )
    truth = np.zeros((6, 8), int)
    rows = viz.prediction_panels([{"image": IMAGE, "truth": truth, "PiPa": truth + 1}] * 2, PALETTE)
    return viz.write_report(
        path,
        title="A & B",
        classes=["road", "sign & <post>"],
        palette=PALETTE,
        runs=runs,
        settings={"crop": "64 x 64"},
        sections=[step, rows],
        seeds=viz.SeedTable(["0", "1"], {"PiPa": [60.0, 62.0]}),
        notes=["what <must> be known"],
    )


def test_report_is_one_complete_file(tmp_path: Path) -> None:
    path = _report(tmp_path / "new" / "report.html")
    html = path.read_text()
    page = _Page()
    page.feed(html)
    assert page.open == []
    text = " ".join(page.text)
    for words in ("A & B", "sign & <post>", "PiPa <b>", "what <must> be known", "1 min 5 s", "64 x 64", "61.0", "1.4"):
        assert words in text, words
    # mIoU: mean of (50, 10), and of the one class that occurs.
    assert "30.0" in text
    assert "+40.0" in text
    assert len(page.links) == 5 + 6
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "http" not in html
    first = Image.open(io.BytesIO(base64.b64decode(page.links[0].split(",")[1])))
    np.testing.assert_array_equal(np.asarray(first), IMAGE)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def _lines(svg: str, run: int) -> list[np.ndarray]:
    """Points of every line of a run in a chart."""
    paths = re.findall(rf'<path d="([^"]+)"[^>]*stroke: var\(--run-{run}\)', svg)
    return [np.array([[float(v) for v in p.split()] for p in re.split("[ML]", path)[1:]]) for path in paths]


def test_curves_show_the_values_in_the_page_s_colours(tmp_path: Path) -> None:
    html = _report(tmp_path / "report.html").read_text()
    miou, ce, patch = re.findall(r'<svg class="chart".*?</svg>', html)
    (one,), (two,) = _lines(miou, 0), _lines(miou, 1)
    # One scale for both: (100, 20), (200, 30) of the first run give the places of (100, 25), (200, 45) of the second.
    rise = one[1, 1] - one[0, 1]
    np.testing.assert_allclose(two - one, [[0, 0.5 * rise], [0, 1.5 * rise]], atol=1e-3)
    assert rise < 0 < one[1, 0] - one[0, 0]
    counts = [len(_lines(svg, run)) for svg in (ce, patch) for run in (0, 1)]
    assert counts == [2, 2, 0, 2]  # the running mean and what it is of
    for svg in (miou, ce, patch):
        width, height = (float(v) for v in re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())  # type: ignore[union-attr]
        for line in _lines(svg, 0)[-1:] + _lines(svg, 1)[-1:]:  # what is faint may leave the axes and is clipped
            assert len(line) <= 250
            assert (line >= 0).all()
            assert (line <= [width, height]).all()
    colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", miou + ce + patch))
    assert all(re.fullmatch(r"none|var\(--(run-\d|soft|line|card)\)", colour) for colour in colours), colours


def test_equal_values_give_equal_pages_with_ids_of_their_own(tmp_path: Path) -> None:
    html = _report(tmp_path / "a.html").read_text()
    assert html == _report(tmp_path / "b.html").read_text()
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids)) > 0
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(ids)


def test_a_report_with_curves_needs_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install \"pipa-rs\[study\]\""):
        _report(tmp_path / "r.html")
    plain = viz.Run("x", [1.0])
    viz.write_report(tmp_path / "r.html", title="", classes=["a"], palette=PALETTE, runs=[plain])


def test_report_refuses_runs_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        viz.write_report(tmp_path / "r.html", title="", classes=["a"], palette=PALETTE, runs=[])
    with pytest.raises(ValueError, match=r"'x': expected 2 values of iou, got 1"):
        viz.write_report(tmp_path / "r.html", title="", classes=["a", "b"], palette=PALETTE, runs=[viz.Run("x", [1.0])])
    with pytest.raises(ValueError, match="palette"):
        viz.write_report(
            tmp_path / "r.html", title="", classes=["a"] * 3, palette=PALETTE, runs=[viz.Run("x", [1.0] * 3)]
        )
    unknown = dict(runs=[viz.Run("x", [1.0])], compare=[("x", "y")])
    with pytest.raises(ValueError, match=r"no run is named 'y', found \['x'\]"):
        viz.write_report(tmp_path / "r.html", title="", classes=["a"], palette=PALETTE, **unknown)
    assert not (tmp_path / "r.html").exists()


def test_runs_are_compared_as_asked(tmp_path: Path) -> None:
    runs = [viz.Run("before", [40.0]), viz.Run("middle", [50.0]), viz.Run("after", [45.0])]
    common = dict(title="t", classes=["a"], palette=PALETTE, runs=runs)
    html = viz.write_report(
        tmp_path / "r.html", compare=[("after", "middle"), ("after", "before")], **common
    ).read_text()
    assert re.findall(r"<th>(\w+ − \w+)</th>", html) == ["after − middle", "after − before"]
    assert re.findall(r'<td class="(\w+)">([+−][\d.]+)</td>', html)[:2] == [("down", "−5.0"), ("up", "+5.0")]
    html = viz.write_report(tmp_path / "r.html", **common).read_text()
    assert re.findall(r"<th>(\w+ − \w+)</th>", html) == ["middle − before"]


def test_empty_curves_and_odd_values_draw_nothing_wrong(tmp_path: Path) -> None:
    run = viz.Run("x", [None], [(1, float("nan"))], {"a": [], "b": [(0, 0.0)], "c": [(1, 5.0), (2, 5.0)]})
    html = viz.write_report(tmp_path / "r.html", title="t", classes=["a"], palette=PALETTE, runs=[run]).read_text()
    assert html.count("<svg") == 2
    assert "nan" not in html
