"""Bad input of the step: the error's kind, and that its message names what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pipa
from pipa import PipaStep
from pipa.networks import Networks
from small_nets import ALL_TERMS, CLASSES, OFF, SIDE, SmallNet, small_batch, small_step

Batch = dict[str, Tensor]


def batch() -> Batch:
    return dict(zip(("source", "source_label", "target"), small_batch(), strict=True))


def with_id(value: int) -> Callable[[Batch], Any]:
    def change(b: Batch) -> None:
        b["source_label"][0, 3, 3] = value

    return change


def repeated(b: Batch) -> None:
    b["source_label"] = b["source_label"][:, None].repeat(1, 3, 1, 1)


def meta_mask(b: Batch) -> None:
    b["valid_mask"] = torch.ones(2, SIDE, SIDE, device="meta")


BAD: list[tuple[str, type[Exception], str, Callable[[Batch], Any]]] = [
    ("bytes", pipa.DTypeError, "source image", lambda b: b.update(source=b["source"].byte())),
    ("bytes", pipa.DTypeError, "target image", lambda b: b.update(target=b["target"].byte())),
    ("real label", pipa.DTypeError, "source label", lambda b: b.update(source_label=b["source_label"].float())),
    ("one image", pipa.ShapeError, "source image", lambda b: b.update(source=b["source"][0])),
    ("smaller", pipa.ShapeError, "target image", lambda b: b.update(target=b["target"][..., :16])),
    ("fewer", pipa.ShapeError, "target image", lambda b: b.update(target=b["target"][:1])),
    ("smaller", pipa.ShapeError, "source label", lambda b: b.update(source_label=b["source_label"][:, :16])),
    (
        "channels",
        pipa.ShapeError,
        "source label",
        lambda b: b.update(source_label=b["source_label"][:, None].repeat(1, 3, 1, 1)),
    ),
    ("smaller", pipa.ShapeError, "valid mask", lambda b: b.update(valid_mask=torch.ones(2, 8, 8))),
    ("elsewhere", pipa.DeviceError, "target image", lambda b: b.update(target=b["target"].to("meta"))),
    ("elsewhere", pipa.DeviceError, "source label", lambda b: b.update(source_label=b["source_label"].to("meta"))),
    (
        "elsewhere",
        pipa.DeviceError,
        "valid mask",
        lambda b: b.update(valid_mask=torch.ones(2, SIDE, SIDE, device="meta")),
    ),
    ("stray id", ValueError, "source label", with_id(CLASSES)),
    ("negative id", ValueError, "source label", with_id(-1)),
]


@pytest.mark.parametrize(("what", "kind", "name", "change"), BAD, ids=[f"{b[2]}, {b[0]}" for b in BAD])
def test_bad_batch(what: str, kind: type[Exception], name: str, change: Callable[[Batch], Any]) -> None:
    student, step = small_step()
    bad = batch()
    change(bad)
    with pytest.raises(kind, match=name):
        step(**bad)
    assert step.iteration == 0
    assert all(p.grad is None for p in student.parameters())
    step(**batch())  # and it still works
    assert step.iteration == 1


@pytest.mark.parametrize("name", ["source", "target"])
def test_nan_in_an_image_names_the_term(name: str) -> None:
    student, step = small_step()
    before = [p.clone() for p in student.parameters()]
    bad = batch()
    bad[name][0] = float("nan")
    term = "source" if name == "source" else "mix"
    state = step.get_extra_state()
    with pytest.raises(pipa.NonFiniteError, match=f"term '{term}' is NaN"):
        step(**bad)
    assert isinstance(pipa.NonFiniteError("x"), ArithmeticError)
    assert step.get_extra_state() == state
    assert all(torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"thresold": 0.9}, ("thresold", "'threshold'")),
        ({"pixel_wieght": 1}, ("pixel_wieght", "'pixel_weight'")),
        ({"zzz": 1}, ("zzz", "known")),
        ({"threshold": 1.5}, ("threshold", "1.5")),
        ({"threshold": "high"}, ("high",)),
        ({"patch_source": "source"}, ("source", "mixed")),
        ({"patch_iou": [0.9, 0.1]}, ("patch_iou",)),
        ({"pixel_temperature": 0}, ("pixel_temperature",)),
        ({"ignore_index": 2}, ("ignore_index", "2")),
        ({"num_classes": 1}, ("num_classes",)),
    ],
)
def test_bad_settings(settings: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError) as error:
        PipaStep(SmallNet(), **{"num_classes": CLASSES, **settings})
    assert all(word in str(error.value) for word in words), error.value


class LogitsOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = SmallNet()

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image)[0]


def test_network_without_features() -> None:
    with pytest.raises(ValueError, match="features="):
        PipaStep(LogitsOnly(), **ALL_TERMS)
    # Without the terms that need features it is enough.
    step = PipaStep(LogitsOnly(), num_classes=CLASSES, **{**OFF, "mix_weight": 1})
    assert "loss_mix" in step(**batch())


def test_layer_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"features='bakbone'.*net"):
        PipaStep(LogitsOnly(), features="bakbone", **ALL_TERMS)


def test_wrong_number_of_classes() -> None:
    _, step = small_step(num_classes=CLASSES + 1)
    with pytest.raises(pipa.ShapeError, match=r"student logits.*num_classes"):
        step(**batch())


def test_network_that_returns_something_else() -> None:
    class Strange(SmallNet):
        def forward(self, image: Tensor) -> Any:
            return {"mask": super().forward(image)[0]}

    with pytest.raises((TypeError, ValueError), match="logits"):
        PipaStep(Strange(), **ALL_TERMS)(**batch())


def test_teacher_of_another_shape() -> None:
    class Wider(SmallNet):
        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.Linear(2, 2)

    _, step = small_step(teacher=Wider())
    with pytest.raises(pipa.ShapeError, match="teacher"):
        step(**batch())


def test_patches_that_do_not_fit_the_image() -> None:
    _, step = small_step(patch_size=[64, 64])
    with pytest.raises(ValueError, match="patch sampler"):
        step(**batch())


@pytest.mark.parametrize(
    ("draws", "words"),
    [
        ({"clases": []}, "clases"),
        ({}, "classes"),
        ({"classes": [[0]]}, "classes_per_image"),
        ({"classes": [[0], [1]], "augment": [{"jitter": None, "sigma": None}]}, "draws"),
        ({"classes": [[0], [1]], "mask": [[0.5] * 16]}, "mask: expected 2 lists"),
        ({"classes": [[0], [1]], "mask": [[0.5] * 15, [0.5] * 16]}, r"mask.*15, 16"),
        ({"classes": [[0], [1]], "patches": ((0, 0, 64, 64), (0, 0, 64, 64), False, False)}, "box"),
    ],
)
def test_bad_draws(draws: dict[str, Any], words: str) -> None:
    _, step = small_step()
    with pytest.raises((ValueError, KeyError), match=words):
        step(**batch(), draws=draws)


def test_an_exception_in_the_network_comes_through_unchanged() -> None:
    class Own(Exception):
        pass

    def fail(*_: Any) -> None:
        raise Own("in the middle")

    student, step = small_step()
    handle = student.register_forward_pre_hook(fail)
    with pytest.raises(Own, match="in the middle"):
        step(**batch())
    handle.remove()
    step(**batch())
    assert step.iteration == 1


def test_a_network_that_asks_the_running_step_gets_an_error_not_a_deadlock() -> None:
    student, step = small_step()
    student.register_forward_pre_hook(lambda *_: step.iteration)
    with pytest.raises(ValueError, match="running"):
        step(**batch())


def test_adapter_that_returns_nonsense() -> None:
    class Nonsense(Networks):
        def outputs(self, module: nn.Module, image: Tensor) -> Any:
            return [], [], None

        def logits(self, module: nn.Module, image: Tensor) -> Tensor:
            return image

    step = PipaStep(SmallNet(), adapter=Nonsense, num_classes=CLASSES, **OFF)
    with pytest.raises(ValueError, match="no segmentation head"):
        step(**batch())


@pytest.mark.parametrize("state", [{"iteration": -1, "rng": ["0"] * 4}, {"iteration": 1, "rng": ["0"]}])
def test_broken_state(state: dict[str, Any]) -> None:
    _, step = small_step()
    with pytest.raises((ValueError, TypeError)):
        step.set_extra_state(state)
