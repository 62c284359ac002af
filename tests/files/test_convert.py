"""Label conversion against the outputs of the released tools, and on small files of its own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipa.commands.cli import main
from pipa.files.convert import class_totals, convert_labels, folder_stats
from pipa.files.images import DataError, read_label
from pipa.files.label_tables import CITYSCAPES_IDS, CITYSCAPES_NAMES, SYNTHIA_IDS

STATS = ("sample_class_stats.json", "sample_class_stats_dict.json", "samples_with_class.json")


@pytest.mark.parametrize("name", ["gta", "synthia", "cityscapes"])
def test_released_outputs(name: str, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = golden / "rcs" / "convert" / name
    files = [p.relative_to(recorded) for p in recorded.rglob("*") if p.is_file()]
    made = [p for p in files if p.name.endswith("_labelTrainIds.png") or p.suffix == ".txt" or p.name in STATS]
    for path in set(files) - set(made):
        (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(recorded / path, tmp_path / name / path)
    monkeypatch.chdir(tmp_path)  # the names in the statistics begin with the root as given
    report = convert_labels(name, name, workers=2, progress=False)
    assert report.converted == len([p for p in made if p.suffix == ".png"])
    for path in made:
        ours, theirs = tmp_path / name / path, recorded / path
        if path.suffix == ".png":
            assert (read_label(ours) == read_label(theirs)).all(), path
        else:
            assert ours.read_text() == theirs.read_text(), path


def test_tables(golden: Path) -> None:
    tables = json.loads((golden / "rcs/id_tables.json").read_text())
    assert {int(k): v for k, v in tables["gta"].items()} == CITYSCAPES_IDS
    assert {int(k): v for k, v in tables["synthia"].items()} == SYNTHIA_IDS
    names = {name: None if label == -1 else train for name, (label, train) in tables["cityscapes_names"].items()}
    assert names == CITYSCAPES_NAMES


def gta(root: Path, count: int = 4) -> Path:
    """Palette PNGs, as the official GTA5 labels are."""
    (root / "labels").mkdir(parents=True)
    for i in range(count):
        ids = np.random.default_rng(i).integers(0, 35, (12, 17), dtype=np.uint8)
        label = Image.fromarray(ids).convert("P")
        label.putdata(ids.reshape(-1).tolist())
        label.putpalette([(c * 7) % 256 for c in range(768)])
        label.save(root / f"labels/{i:05d}.png")
    return root


def test_palette_labels_are_indices(tmp_path: Path) -> None:
    root = gta(tmp_path / "gta", 1)
    ids = np.random.default_rng(0).integers(0, 35, (12, 17), dtype=np.uint8)
    convert_labels("gta", root, workers=1, progress=False)
    expected = np.array([CITYSCAPES_IDS.get(i, 255) for i in range(256)])[ids]
    assert (read_label(root / "labels/00000_labelTrainIds.png") == expected).all()
    stats = json.loads((root / STATS[0]).read_text())[0]
    assert {int(k): v for k, v in stats.items() if k != "file"} == {
        c: int((expected == c).sum()) for c in np.unique(expected) if c != 255
    }


def test_a_second_run_keeps_what_is_finished(tmp_path: Path) -> None:
    root = gta(tmp_path / "gta")
    originals = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (root / "labels").iterdir()}
    first = convert_labels("gta", root, workers=2, progress=False)
    assert (first.converted, first.kept) == (4, 0)
    stats = (root / STATS[2]).read_text()
    made = sorted((root / "labels").glob("*_labelTrainIds.png"))
    good = [path.read_bytes() for path in made]

    made[0].write_bytes(good[0][:40])  # cut
    Image.fromarray(np.full((12, 17), 77, np.uint8)).save(made[1])  # no train ids
    os.utime(made[2], ns=(1, 1))  # older than its source
    second = convert_labels("gta", root, workers=2, progress=False)
    assert (second.converted, second.kept) == (3, 1)
    assert [path.read_bytes() for path in made] == good
    assert (root / STATS[2]).read_text() == stats
    assert convert_labels("gta", root, workers=2, progress=False).kept == 4
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in originals} == originals
    assert not list(root.rglob("*.tmp"))


def test_a_label_that_an_older_file_has_replaced_is_converted_again(tmp_path: Path) -> None:
    root = gta(tmp_path / "gta", 2)
    older = tmp_path / "older.png"
    Image.fromarray(np.full((12, 17), 26, np.uint8)).save(older)  # car
    os.utime(older, ns=(10**18, 10**18))
    convert_labels("gta", root, workers=1, progress=False)
    older.replace(root / "labels/00000.png")
    again = convert_labels("gta", root, workers=1, progress=False)
    assert (again.converted, again.kept) == (1, 1)
    assert (read_label(root / "labels/00000_labelTrainIds.png") == 13).all()


def test_labels_without_any_class_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = gta(tmp_path / "gta", 3)
    for name in ("00000", "00002"):
        Image.fromarray(np.full((12, 17), 200, np.uint8)).save(root / f"labels/{name}.png")
    for _ in range(2):  # converted, and found finished
        assert main(["convert", "gta", str(root), "--workers", "1"]) == 0
        said = capsys.readouterr()
        assert "00000.png: no pixel has an id of the 19 classes, all are ignored; so in 2 of 3 labels" in said.err
    assert "converted 0, finished before 3" in said.out
    assert f"written: {root / STATS[0]}" in said.out


def test_a_list_of_the_users_is_kept(tmp_path: Path) -> None:
    for split, city in (("train", "ulm"), ("train", "aachen"), ("val", "lindau")):
        folder = tmp_path / f"gtFine/{split}/{city}"
        folder.mkdir(parents=True)
        Image.fromarray(np.full((4, 4), 7, np.uint8)).save(folder / f"{city}_0_0_gtFine_labelIds.png")
    (tmp_path / "train.txt").write_text("ulm/ulm_0_0\n")
    report = convert_labels("cityscapes", tmp_path, workers=1, progress=False)
    assert (tmp_path / "train.txt").read_text() == "ulm/ulm_0_0\n"
    assert (tmp_path / "val.txt").read_text() == "lindau/lindau_0_0\n"
    assert report.notes == (
        f"{tmp_path / 'train.txt'}: is there with other lines and was kept (1 lines, 2 labels found); remove it to "
        "have it written again",
    )
    assert tmp_path / "val.txt" in report.written
    assert tmp_path / "train.txt" not in report.written


def test_out_leaves_the_data_set_alone(tmp_path: Path) -> None:
    root, out = gta(tmp_path / "gta"), tmp_path / "out"
    before = sorted(root.rglob("*"))
    convert_labels("gta", root, out=out, workers=1, progress=False)
    assert sorted(root.rglob("*")) == before
    assert len(list(out.glob("labels/*_labelTrainIds.png"))) == 4
    assert (out / STATS[0]).is_file()


def test_cityscapes_from_label_ids(tmp_path: Path) -> None:
    folder = tmp_path / "gtFine/train/ulm"
    folder.mkdir(parents=True)
    ids = np.arange(35, dtype=np.uint8).repeat(4).reshape(10, 14)
    Image.fromarray(ids).save(folder / "ulm_000000_000019_gtFine_labelIds.png")
    convert_labels("cityscapes", tmp_path, workers=1, progress=False)
    expected = np.array([CITYSCAPES_IDS.get(i, 255) for i in range(256)])[ids]
    assert (read_label(folder / "ulm_000000_000019_gtFine_labelTrainIds.png") == expected).all()
    assert (tmp_path / "train.txt").read_text() == "ulm/ulm_000000_000019\n"


def test_cityscapes_labels_without_polygons_are_made_from_their_ids(tmp_path: Path) -> None:
    both, ids = tmp_path / "gtFine/val/lindau", tmp_path / "gtFine/train/ulm"
    for folder in (both, ids):
        folder.mkdir(parents=True)
        Image.fromarray(np.full((4, 6), 26, np.uint8)).save(folder / f"{folder.name}_0_0_gtFine_labelIds.png")  # car
    road = dict(label="road", polygon=[[0, 0], [5, 0], [5, 3], [0, 3]])
    polygons = both / "lindau_0_0_gtFine_polygons.json"
    polygons.write_text(json.dumps(dict(imgHeight=4, imgWidth=6, objects=[road])))
    report = convert_labels("cityscapes", tmp_path, workers=1, progress=False)
    assert (read_label(both / "lindau_0_0_gtFine_labelTrainIds.png") == 0).all()
    assert (read_label(ids / "ulm_0_0_gtFine_labelTrainIds.png") == 13).all()
    assert (tmp_path / "train.txt").read_text() == "ulm/ulm_0_0\n"
    (entry,) = json.loads((tmp_path / STATS[0]).read_text())
    assert entry["13"] == 24
    assert report.notes == (
        f"{ids / 'ulm_0_0_gtFine_labelIds.png'}: taken, there is no polygon file; so for 1 of 2 labels",
    )
    only = convert_labels("cityscapes", tmp_path, tmp_path / "out", 1, progress=False, source="polygons")
    assert (only.converted, only.notes) == (1, ())


def test_errors_name_every_bad_file(tmp_path: Path) -> None:
    root = gta(tmp_path / "gta")
    (root / "labels/00001.png").write_bytes(b"")
    (root / "labels/00002.png").write_bytes((root / "labels/00003.png").read_bytes()[:60])
    Image.new("RGB", (17, 12)).save(root / "labels/00004.png")
    with pytest.raises(DataError) as caught:
        convert_labels("gta", root, workers=2, progress=False)
    text = str(caught.value)
    assert "3 of 5" in text
    assert "00001.png: expected a PNG, found an empty file" in text
    assert "00002.png: truncated or corrupt" in text
    assert "00004.png: expected a label with one channel" in text
    assert not (root / STATS[0]).exists()
    assert len(list(root.glob("labels/*_labelTrainIds.png"))) == 2

    with pytest.raises(DataError, match="nowhere"):
        convert_labels("gta", tmp_path / "nowhere")
    with pytest.raises(DataError, match="LABELS"):
        convert_labels("synthia", root)
    with pytest.raises(ValueError, match="kitti"):
        convert_labels("kitti", root)
    polygons = tmp_path / "cs/gtFine/train/a/a_gtFine_polygons.json"
    polygons.parent.mkdir(parents=True)
    polygons.write_text('{"imgHeight": 4, "imgWidth": 4, "objects": [{"label": "boat", "polygon": [[0, 0], [1, 1]]}]}')
    with pytest.raises(DataError, match=r"a_gtFine_polygons\.json: object 0 has the label 'boat'"):
        convert_labels("cityscapes", tmp_path / "cs", progress=False)
    polygons.write_text("[1, 2]")
    with pytest.raises(DataError, match=r"a_gtFine_polygons\.json: expected Cityscapes polygons"):
        convert_labels("cityscapes", tmp_path / "cs", progress=False)


def test_folder_statistics(tmp_path: Path) -> None:
    root = gta(tmp_path / "gta", 2)
    stats = folder_stats(root / "labels", id_map=CITYSCAPES_IDS, out=tmp_path / "s", progress=False, workers=1)
    convert_labels("gta", root, progress=False, workers=1)
    converted = folder_stats(root / "labels", suffix="_labelTrainIds.png", progress=False)
    assert list(stats.values()) == list(converted.values())
    assert (tmp_path / "s" / STATS[1]).is_file()
    totals = class_totals(converted)
    assert sum(share for _, share, _ in totals.values()) == pytest.approx(1)
    assert totals[0][0] == sum(counts.get(0, 0) for counts in converted.values())
