"""`prototype_layer="head"`: prototypes live on the map that the decode head classifies, and on nothing else."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")

from torch import Tensor, nn

import tiny
from pipa import PipaStep
from pipa import functional as F
from pipa.mmseg.models.segmentors.step_adapter import SegmentorNetworks
from pipa.networks.quiet import quiet_train
from small_nets import OFF, small_batch, small_step

LABELS: dict[str, Any] = {**OFF, "prototype_labels": True, "mix_weight": 1.0, "prototype_min_pixels": 1}
K = tiny.CLASSES


def step_of(student: nn.Module, **settings: Any) -> PipaStep:
    return PipaStep(student, num_classes=K, adapter=SegmentorNetworks, **settings)


def read(student: Any, image: Tensor, quiet: bool = True) -> tuple[Tensor, Tensor]:
    """What conv_seg of a copy reads, before its dropout, and the logits; by hand."""
    twin = copy.deepcopy(student)
    twin = quiet_train(twin) if quiet else twin.eval()
    seen: list[Tensor] = []
    twin.decode_head.conv_seg.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        logits = twin.decode_head(twin.backbone(image))
    return seen[0], logits


def full(map_bkhw: Tensor) -> Tensor:
    return nn.functional.interpolate(map_bkhw, tiny.SIZE, mode="bilinear", align_corners=False)


def label_on_map(logits: Tensor) -> Tensor:
    """Of the logits of the whole image, as for maps of any other size."""
    return nn.functional.interpolate(full(logits), logits.shape[2:], mode="bilinear", align_corners=False).argmax(1)


def test_labels_are_corrected_and_prototypes_moved_on_the_classified_map() -> None:
    """Against the equations on what the head's last convolution reads in the teacher."""
    student = tiny.daformer()
    source, label, target = tiny.batch()
    feat, logits = read(student, target)
    assert feat.shape == (2, 12, 16, 16)
    proto = feat.permute(0, 2, 3, 1).reshape(-1, 12)[torch.randperm(512)[:K]]
    step = step_of(student, prototype_layer="head", **LABELS)
    step._native.prototypes = (proto, torch.full((K,), 5))
    step(source, label, target)
    weight = F.prototype_weights(feat, proto)
    expected, _ = F.rectified_label(full(logits).softmax(1), full(weight.log()).exp())
    assert step.last is not None
    assert torch.equal(step.last["pseudo_label"], expected)
    assert (expected != full(logits).argmax(1)).any()
    moved = F.prototype_update(proto, feat, label_on_map(logits), momentum=1 - 1 / 6, min_pixels=1)
    torch.testing.assert_close(step._native.prototypes[0], moved, rtol=1e-4, atol=1e-5)


def test_the_place_among_the_prototypes_is_that_of_the_classified_map() -> None:
    """Strong view of the student against the weak one of the teacher: another teacher makes them differ."""
    student, other = tiny.daformer(noise=False), tiny.daformer(noise=False)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.05 * torch.randn_like(p))
    source, label, target = tiny.batch()
    proto = torch.randn(K, 12)
    terms = dict(structure_weight=1.0, jitter_probability=0.0, blur_probability=0.0)
    step = step_of(student, teacher=other, prototype_layer="head", alpha=1.0, **{**OFF, **terms})
    step._native.prototypes = (proto, torch.full((K,), 5))
    step._native.iteration = 1  # the teacher is not a copy of the student
    twin = copy.deepcopy(student)
    seen: list[Tensor] = []
    twin.decode_head.conv_seg.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].detach()))
    log = step(source, label, target, log_gradients=True)
    teacher, _ = read(step.teacher, target)
    twin.decode_head(twin.backbone(target))
    expected = float(F.prototype_consistency(seen[0], teacher, proto))
    assert expected > 0.01
    assert float(log["loss_structure"]) == pytest.approx(expected, rel=1e-3)
    # Its gradient reaches the head, which a map of the encoder does not.
    whole, encoder = float(log["grad_norm_structure"]), float(log["encoder_grad_norm_structure"])
    assert whole**2 - encoder**2 > 1e-3 * whole**2


def test_first_prototypes_are_class_means_of_the_classified_map() -> None:
    student = tiny.daformer()
    step = step_of(student, prototype_layer="head", **LABELS)
    images = [torch.randn(2, 3, *tiny.SIZE) for _ in range(3)]
    step.start_prototypes(images)
    pairs = [read(student, image, quiet=False) for image in images]
    feat = torch.cat([f.permute(0, 2, 3, 1).reshape(-1, 12) for f, _ in pairs])
    label = torch.cat([label_on_map(logits).flatten() for _, logits in pairs])
    proto, updates = step._native.prototypes
    assert (updates > 0).any()
    for k in range(K):
        if updates[k]:
            torch.testing.assert_close(proto[k], feat[label == k].mean(0), rtol=1e-4, atol=1e-5)


def test_a_config_trains_with_it_and_goes_on(tmp_path: Path) -> None:
    """Through `pipa.prototype_layer` of a config: a resumed training is the straight one, prototypes included."""
    root = tiny.data(tmp_path / "data")
    terms = dict(prototype_labels=True, prototype_layer="head", prototype_min_pixels=1, prototype_batches=1)
    cfg = tiny.config(root, tmp_path / "a", iterations=3, **terms)
    straight = tiny.train(cfg)
    torch.rand(3)  # the resuming process is somewhere else in its generators
    cfg["work_dir"] = str(tmp_path / "b")
    resumed = tiny.train(cfg, resume=True, load_from=tmp_path / "a" / "iter_2.pth")
    assert not tiny.differences(tiny.everything(straight), tiny.everything(resumed))
    assert tiny.everything(resumed)["prototypes"][0].shape == (K, 12)


def test_refused(tmp_path: Path) -> None:
    """HRDA, compiled networks and adapters that do not show the map, each in a sentence that names the setting."""
    root = tiny.data(tmp_path / "data")
    terms: dict[str, Any] = dict(prototype_labels=True, prototype_layer="head")
    cases = [
        ("hrda", {}, "'head' expects a plain EncoderDecoder, got HRDAEncoderDecoder"),
        ("daformer", dict(compile=True), "'head' expects compile=False"),
        ("daformer", dict(prototype_layer="neck"), "expected a whole number or \"head\", got 'neck'"),
    ]
    for kind, more, message in cases:
        with pytest.raises(ValueError, match=f"prototype_layer.*{message}"):
            tiny.train(tiny.config(root, tmp_path / "work", kind, iterations=1, **{**terms, **more}))
    _, step = small_step(**{**LABELS, **terms})
    with pytest.raises(ValueError, match=r"prototype_layer: 'head' expects .* got PlainNetworks; name the layer"):
        step(*small_batch())


def test_labels_that_feed_on_themselves_warn() -> None:
    """The moving teacher learns corrected labels and is corrected again; a fixed network does not."""
    student = tiny.daformer()
    with pytest.warns(UserWarning, match="prototype_labels with label_network='teacher': .* label_network='initial'"):
        step_of(student, **LABELS)(*tiny.batch())
    for fixed in (dict(label_network="initial"), dict(prototype_labels=False, structure_weight=1.0)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            step_of(copy.deepcopy(student), **{**LABELS, **fixed})(*tiny.batch())
