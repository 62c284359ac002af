"""A class table that says one thing twice, or leaves open what is meant, is refused, and the entries are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipa.files.classes import load_classes
from pipa.files.images import DataError

A, B = dict(name="road", color=[1, 2, 3], ids=[7]), dict(name="car", color=[4, 5, 6], ids=[26])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (dict(classes=[A, {**B, "color": [1, 2, 3]}]), r"'road' and 'car' have the same colour \[1, 2, 3\]"),
        (dict(names=["a", "b"], colors=[[0, 0, 0], [0, 0, 0]]), "'a' and 'b' have the same colour"),
        (dict(classes=[A, {**B, "ids": [26, 7]}]), "raw id 7 stands twice, for 'road' and for 'car'"),
        (dict(classes=[{**A, "ids": [7, 7]}, B]), "raw id 7 stands twice"),
        (dict(names=["a", "b"], id_map={"7": 0, "07": 1}), "raw id 7 stands twice, for 'a' and for 'b'"),
        (dict(names=["a", "b"], id_map={"7": 0, 7: 255}), r"raw id 7 stands twice, for 'a' and for ignore \(255\)"),
        (dict(names=["a", "b", "a"]), "must differ, found 'a' for class 0 and class 2"),
        (dict(names=["a", " a"]), "must differ"),
        (dict(classes=[{**A, "id": 0}, {**B, "id": 0}]), "'road' and 'car' have the same id 0"),
        (dict(classes=[{**A, "id": 0}, B]), "1 of the 2 classes have an 'id'"),
        (dict(classes=["a"], names=["b"]), "twice, under 'classes' and under 'names'"),
        (dict(classes=[A, B], colors=[[0, 0, 0], [1, 1, 1]]), "gives colours twice"),
        (dict(classes=[A, B], id_map={1: 0}), "gives raw ids twice"),
        (dict(classes=[A, {**B, "color": [4, 5, 256]}]), r"three integers 0..255, found \[4, 5, 256\] for 'car'"),
        (dict(classes=[A, {**B, "color": [True, 5, 6]}]), "three integers"),
        (dict(classes=[A, {**B, "color": "#040506"}]), "three integers"),
        (dict(names=["a"], colors={"a": [1, 2, 3]}), "list of colours"),
        (dict(classes=[{**A, "ids": "26"}, B]), "'ids' of 'road' must be a list"),
        (dict(classes=[{**A, "ids": [7.5]}, B]), "'ids' of 'road' must be a list"),
        (dict(names=["a"], id_map={7: 0.5}), "expected integers"),
        (dict(names=["a"], id_map=[7]), "id_map must map"),
        (dict(names=["a"], id_map={}), r"id_map \{\}: expected a raw id for one class at least, found none"),
        (dict(names=["a"], id_map={7: 255}), "expected a raw id for one class at least"),
        (
            dict(classes=[{**A, "ids": []}, {**B, "ids": []}]),
            "the 'ids' of the classes: expected a raw id for one class",
        ),
        (dict(names=["a", False]), "the name of class 1 is False"),
        (dict(names=["a"], ignore_index=1.5), "ignore_index must be an integer"),
        (dict(classes=[dict(name="road", colour=[1, 2, 3])]), "unknown key 'colour'; did you mean 'color'"),
        (dict(names=["a"], id_maps={7: 0}), "unknown key 'id_maps'; did you mean 'id_map'"),
    ],
)
def test_an_ambiguous_table_is_refused(table: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_classes(table)


def test_a_class_that_no_label_of_ids_can_hold_is_told() -> None:
    with pytest.warns(UserWarning, match="the class 'car' has no 'ids', but others have: no label of ids can hold it"):
        assert load_classes(dict(classes=[A, dict(name="car", color=[4, 5, 6])])).id_map is not None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.yaml", "names: [a, b]\nid_map: {7: 0, 7: 1}\n", r"c\.yaml.*key 7 stands twice"),
        ("c.yml", "names: [a]\nnames: [b]\n", r"c\.yml.*key 'names' stands twice"),
        ("c.json", '{"names": ["a", "b"], "id_map": {"7": 0, "7": 1}}', r"c\.json.*key '7' stands twice"),
        ("c.yaml", "names: [yes, no]\n", "put the name in quotes"),
        ("c.yaml", "classes:\n- {name: a, ids: [010, 011]}\n", r"found 010 \(line 2\), which YAML reads as 8"),
        ("c.yaml", "names: [a]\nignore_index: 1:30\n", r"found 1:30 \(line 2\), which YAML reads as 90"),
    ],
)
def test_a_key_twice_in_a_file(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        load_classes(tmp_path / name)


@pytest.mark.parametrize(("name", "text"), [("c.json", '{"names": ["road"]}'), ("c.yaml", "names: [road]\n")])
def test_a_table_with_a_byte_order_mark(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert load_classes(tmp_path / name).names == ("road",)


def test_a_good_table(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("name: my streets\nclasses: [{name: road, ids: [7, 8]}, {name: car, ids: [26]}]\n")
    table = load_classes(tmp_path / "c.yaml")
    assert (table.names, table.id_map) == (("road", "car"), {7: 0, 8: 0, 26: 1})
    assert load_classes(dict(names=["road"], id_map=None)).id_map is None
