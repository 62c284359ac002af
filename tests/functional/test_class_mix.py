"""Class mix, colour jitter and blur of the released code (kornia 0.5.8)."""

from __future__ import annotations

import json
import math

import pytest
import torch

from pipa import functional as F

MIXES = ["mix_even_classes", "mix_one_class"]
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def readme(golden, file):
    cases = json.loads((golden / "class_mix" / "README.json").read_text())["cases"]
    return next(c for c in cases if c.get("file") == f"{file}.npz")


@pytest.mark.parametrize("name", MIXES)
def test_masks_and_mixes(case, golden, name, path):
    data = case(f"class_mix/{name}")
    drawn = readme(golden, name)["choice_per_image"]
    classes = [[int(data["classes"][i]) for i in image] for image in data["choice"].tolist()]
    assert len(drawn) == len(classes)
    mask = F.class_mask(data["label"], classes)
    assert torch.equal(mask, data["masks"][:, 0])
    assert torch.equal(F.class_mix(mask, data["img"], data["target_img"]), data["mixed_img"])
    mixed = F.class_mix(mask, data["label"][:, 0], data["pseudo_label"])
    assert torch.equal(mixed[:, None], data["mixed_label"])
    weight = F.class_mix(mask, torch.ones_like(data["pseudo_weight"]), data["pseudo_weight"])
    assert torch.equal(weight[:, None], data["mixed_weight"])


@pytest.mark.parametrize("name", MIXES)
def test_the_released_draw_counts_over_the_batch(case, name, path):
    """Setting scope="batch": choices come from the ids of the whole batch, the ignored one among them."""
    data = case(f"class_mix/{name}")
    ids = set(data["classes"].tolist())
    assert ids == set(data["label"].unique().tolist())
    expected = data["choice"].shape[1]
    seen: set[int] = set()
    for seed in range(40):
        drawn = F.draw_classes(data["label"], 19, scope="batch", seed=seed)
        assert all(len(set(d)) == len(d) == expected and set(d) <= ids for d in drawn)
        seen |= {c for d in drawn for c in d}
        own = F.draw_classes(data["label"], 19, scope="per_image", seed=seed)
        for d, label in zip(own, data["label"], strict=True):
            present = set(label.unique().tolist()) - {255}
            assert set(d) <= present
            assert len(d) == (len(present) + len(present) % 2) // 2
    assert seen == ids


@pytest.mark.parametrize("name", ["blur_square", "blur_rect"])
def test_blur(case, name, path):
    data = case(f"class_mix/{name}")
    kernel = tuple(data["kernel_size"].tolist())
    x = data["x"]
    assert F.blur_kernel_size(*x.shape[2:]) == kernel
    torch.testing.assert_close(F.gaussian_blur(x, float(data["sigma"]), kernel), data["y"], rtol=1e-5, atol=1e-6)
    ky, kx = data["kernel_y"].double(), data["kernel_x"].double()
    padded = torch.nn.functional.pad(x.double(), (len(kx) // 2,) * 2 + (len(ky) // 2,) * 2, mode="reflect")
    kernel2 = torch.outer(ky, kx).expand(3, 1, -1, -1)
    twin = torch.nn.functional.conv2d(padded, kernel2, groups=3)
    ours = F.gaussian_blur(x.double(), float(data["sigma"]), kernel)
    torch.testing.assert_close(ours, twin, rtol=2e-6, atol=1e-6)  # the recorded kernel is float32


def normalise(x, back=False):
    mean, std = torch.tensor(MEAN, dtype=x.dtype).view(1, 3, 1, 1), torch.tensor(STD, dtype=x.dtype).view(1, 3, 1, 1)
    return (x * 255 - mean) / std if back else (x * std + mean) / 255


def draws_of(params, batch):
    keys = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
    return [{k.removesuffix("_factor"): params[k][i] for k in keys} | {"order": params["order"]} for i in range(batch)]


@pytest.mark.parametrize("number", [10, 11, 12, 14, 16])
def test_jitter(case, golden, number, path):
    data = case(f"class_mix/jitter_{number}")
    draws = draws_of(readme(golden, f"jitter_{number}")["params"], data["x"].shape[0])
    ours = F.strong_augment(data["x"], [{"jitter": draw, "sigma": None} for draw in draws])
    torch.testing.assert_close(ours, data["y"], rtol=1e-4, atol=2e-5)
    small = F.color_jitter(data["chain"][0], draws)
    torch.testing.assert_close(small, data["chain"][-1], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("i", range(3))
def test_single_steps(case, i, path):
    """Each step alone; the others are neutral (brightness 1, contrast 1, saturation 1, hue 0 change nothing)."""
    data = case("class_mix/ops_grid")
    x = data["x"]

    def step(brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0):
        return F.color_jitter(
            x, [F.Jitter(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue, order=(0, 1, 2, 3))]
        )

    tolerance = dict(rtol=1e-5, atol=3e-6)
    torch.testing.assert_close(step(brightness=1 + float(data[f"bright{i}_factor"])), data[f"bright{i}"], **tolerance)
    torch.testing.assert_close(step(contrast=float(data[f"contrast{i}_factor"])), data[f"contrast{i}"], **tolerance)
    torch.testing.assert_close(step(saturation=float(data[f"sat{i}_factor"])), data[f"sat{i}"], **tolerance)
    torch.testing.assert_close(step(hue=float(data[f"hue{i}_factor"]) / math.tau), data[f"hue{i}"], **tolerance)


@pytest.mark.parametrize("number", [30, 31])
def test_strong_transform(case, golden, number, path):
    """Mix, jitter and blur in the order of the released step, with its recorded draws."""
    data = case(f"class_mix/strong_{number}")
    entry = readme(golden, f"strong_{number}")
    calls = [(name, value) for name, value in entry["rng"]]
    jitters = [v for name, v in calls if name == "kornia.ColorJitter"]
    sigmas = [v["out"] for name, v in calls if name == "np.random.uniform"]
    draws = [
        {
            "jitter": draws_of(jitters[i], 1)[0] if entry["applied"]["jitter"] else None,
            "sigma": sigmas[i] if entry["applied"]["blur"] else None,
        }
        for i in range(2)
    ]
    mask = data["masks"][:, 0]
    mixed = F.class_mix(mask, data["img"], data["target_img"])
    torch.testing.assert_close(F.strong_augment(mixed, draws), data["mixed_img"], rtol=1e-4, atol=3e-5)
    assert torch.equal(F.class_mix(mask, data["label"][:, 0], data["pseudo_label"])[:, None], data["mixed_label"])
    weight = F.class_mix(mask, torch.ones_like(data["pseudo_weight"]), data["pseudo_weight"])
    assert torch.equal(weight, data["mixed_weight"])


def test_normalisation(case):
    """The scale in and out is the released one: a neutral jitter returns the image."""
    data = case("class_mix/norm")
    torch.testing.assert_close(normalise(data["x"]), data["denorm"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(normalise(data["denorm"], back=True), data["renorm_of_denorm"], rtol=1e-4, atol=1e-5)
