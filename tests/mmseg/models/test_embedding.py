"""`projection_layers="head"`: the embeddings are made of the map that the decode head classifies, and nothing else."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")

from torch import Tensor, nn

import tiny
from pipa import PipaStep
from pipa.losses import PixelContrastLoss
from pipa.mmseg.models.segmentors.embedding import HeadMapNetworks, build_heads, embedding
from pipa.mmseg.models.segmentors.head_map import HEAD, classifying
from pipa.mmseg.models.segmentors.step_adapter import SegmentorNetworks
from small_nets import OFF

DIMS: dict[str, Any] = dict(pixel_dim=8, patch_dim=6, projection_hidden=8, projection_layers=HEAD)


@pytest.fixture
def model() -> Any:
    return tiny.daformer(noise=False)


def step_with(model: nn.Module, layers: Any, heads: nn.ModuleDict, **terms: Any) -> PipaStep:
    adapter, _ = embedding({"projection_layers": layers})
    return PipaStep(model, num_classes=tiny.CLASSES, adapter=adapter, heads=heads, **{**OFF, **terms})


def test_the_pixel_term_is_that_of_the_classified_map(model: Any) -> None:
    """Equal to the loss module on the input of conv_seg, predictions of the main head included."""
    heads = build_heads(model, {"pixel": True, "patch": False}, DIMS)
    assert heads["pixel_head"].in_channels == model.decode_head.conv_seg.in_channels == 12
    source, label, target = tiny.batch()
    twin, head = copy.deepcopy(model), copy.deepcopy(heads["pixel_head"])
    seen: list[Tensor] = []
    twin.decode_head.conv_seg.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    logits = twin.decode_head(twin.backbone(source))
    assert seen[0].shape == (2, 12, 16, 16)

    settings = dict(max_anchors=10**6, max_per_class=10**6)  # all of them, so that the draw does not matter
    expected = PixelContrastLoss(**settings)(head([seen[0]]), label, logits.argmax(1))
    terms = {f"pixel_{key}": value for key, value in settings.items()}
    step = step_with(model, HEAD, heads, pixel_weight=1.0, **terms)
    log = step(source, label, target)
    assert float(log["loss_pixel"]) == pytest.approx(float(expected.detach()), rel=1e-5)
    # In another place it is another number: the comparison above could fail.
    wrong = PixelContrastLoss(**settings)(head([seen[0].roll(3, 2)]), label, logits.argmax(1))
    assert float(wrong.detach()) != pytest.approx(float(expected.detach()), rel=1e-3)


def test_mistakes_of_the_main_head_choose_half_of_the_sample(model: Any) -> None:
    """As without the setting: the sample knows wrongly predicted pixels, and another prediction gives another one."""
    heads = build_heads(model, {"pixel": True, "patch": False}, DIMS)
    source, label, target = tiny.batch()
    values = []
    for sign in (1.0, -1.0):  # the least likely class is predicted instead
        one = copy.deepcopy(model)
        one.decode_head.conv_seg.weight.data *= sign
        step = step_with(one, HEAD, copy.deepcopy(heads), pixel_weight=1.0, pixel_max_anchors=64)
        values.append(float(step(source, label, target)["loss_pixel"]))
    assert values[0] != values[1]


@pytest.mark.parametrize("term", ["pixel", "patch", "distribution", "pixel_mix"])
def test_terms_reach_the_decode_head(model: Any, term: str) -> None:
    """Of the encoder's maps, they reach the encoder alone: its norm is then that of the whole student."""
    terms: dict[str, Any] = {
        "pixel": dict(pixel_weight=1.0),
        "patch": dict(patch_weight=1.0, patch_size=[48, 48], patch_warmup=0),
        "distribution": dict(distribution_weight=1.0),
        "pixel_mix": dict(pixel_weight=1.0, pixel_target=True, mix_weight=1.0, threshold=0.0),
    }[term]
    outside = []
    for layers in (HEAD, None):
        one = copy.deepcopy(model)
        dims = {**DIMS, "projection_layers": layers}
        heads = build_heads(one, {"pixel": term != "patch", "patch": term == "patch"}, dims)
        log = step_with(one, layers, heads, **terms)(*tiny.batch(), log_gradients=True)
        whole, encoder = float(log[f"grad_norm_{term}"]), float(log[f"encoder_grad_norm_{term}"])
        assert encoder > 0
        outside.append(whole**2 - encoder**2 > 1e-3 * whole**2)
    assert outside == [True, False]


def test_other_terms_see_what_they_saw(model: Any) -> None:
    """Feature distance, prototype losses and supervised terms have the values that they have without the setting."""
    source, label, target = tiny.batch()
    terms = dict(
        pixel_weight=0.1,
        feature_distance_weight=0.1,
        feature_distance_target=True,
        mix_weight=1.0,
        structure_weight=1.0,
        regularizer_weight=0.1,
        threshold=0.0,
    )
    logs, statistics = [], []
    other = copy.deepcopy(model).requires_grad_(False)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.05 * torch.randn_like(p))
    for layers in (None, HEAD):
        one = copy.deepcopy(model)
        heads = build_heads(one, {"pixel": True, "patch": False}, {**DIMS, "projection_layers": layers})
        step = PipaStep(
            one,
            num_classes=tiny.CLASSES,
            adapter=embedding({"projection_layers": layers})[0],
            heads=heads,
            imagenet=copy.deepcopy(other),
            **{**OFF, **terms},
        )
        logs.append(step(source, label, target))
        statistics.append([b.clone() for b in one.buffers()])
    plain, head = logs
    assert plain.keys() == head.keys()
    for name in plain:
        if name.startswith("loss_") and name != "loss_pixel":
            assert float(head[name]) == pytest.approx(float(plain[name]), rel=1e-6), name
    assert float(head["loss_pixel"]) != pytest.approx(float(plain["loss_pixel"]), rel=1e-3)
    # Nor does the head run more often than without: its batch norms have seen the same.
    assert all(torch.equal(a, b) for a, b in zip(*statistics, strict=True))


def test_a_map_is_taken_before_the_dropout() -> None:
    model = tiny.daformer()
    assert model.decode_head.dropout.p == 0.3
    dropped: list[Tensor] = []
    model.decode_head.conv_seg.register_forward_pre_hook(lambda _m, inputs: dropped.append(inputs[0]))
    with classifying(model.decode_head) as seen:
        model.decode_head(model.backbone(torch.randn(2, 3, *tiny.SIZE)))
        read = seen()
    assert (dropped[0].flatten(2) == 0).all(2).any()  # whole channels are gone
    kept = dropped[0] != 0
    torch.testing.assert_close(read[kept] / 0.7, dropped[0][kept])
    assert not (read.flatten(2) == 0).all(2).any()
    assert not model.decode_head.dropout._forward_hooks


def test_refused(tmp_path: Path) -> None:
    """HRDA, compiled networks and unknown words, each in a sentence that names the setting."""
    root = tiny.data(tmp_path / "data")
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("hrda", dict(projection_layers=HEAD), "'head' expects a plain EncoderDecoder, got HRDAEncoderDecoder"),
        ("daformer", dict(projection_layers=HEAD, compile=True), "'head' expects compile=False"),
        ("daformer", dict(projection_layers="heads"), r"expected 'head', positions .* or None; got 'heads'"),
    ]
    for kind, terms, message in cases:
        with pytest.raises(ValueError, match=f"projection_layers.*{message}"):
            tiny.train(tiny.config(root, tmp_path / "work", kind, iterations=1, **terms))
    assert HeadMapNetworks is embedding(DIMS)[0] is not SegmentorNetworks
