"""Maps that are found are the encoder's, whole, and those that every term sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipa import PipaStep
from pipa.networks import Networks
from small_nets import CLASSES, SMALL_STEP, small_batch

TERMS: dict[str, Any] = {**SMALL_STEP, "num_classes": CLASSES, "patch_size": [16, 16], "patch_iou": [0.1, 1.0]}


class Activated(nn.Module):
    """An encoder that ends with a convolution, and a head that begins with an activation."""

    def __init__(self, inplace: bool, make: Callable[..., nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 8, 4, stride=4)
        self.head = nn.Sequential(make(inplace=inplace), nn.Conv2d(8, CLASSES, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.encoder(image))


@pytest.mark.parametrize("given", [{}, {"feature_channels": [8]}])
def test_maps_are_taken_before_a_later_layer_writes_into_them(given: dict[str, Any]) -> None:
    """Student and frozen copy are alike in the first iteration, so their distance is 0; logs are those of a head that
    writes elsewhere."""
    logs = []
    for inplace in (False, True):
        torch.manual_seed(0)
        student = Activated(inplace).train()
        step = PipaStep(student, feature_distance_weight=1.0, **TERMS, **given)
        image = small_batch()[0]
        seen, alone = step.networks.outputs(student, image).features[0], step.networks.features(student, image)[0]
        assert torch.equal(seen, alone)
        assert seen.min() < 0
        logs.append(step(*small_batch()))
    assert float(logs[1]["loss_feature_distance"]) == 0.0
    assert all(torch.equal(logs[0][name], logs[1][name]) for name in logs[0])


def test_dropout_in_place_is_seen_in_training_only() -> None:
    torch.manual_seed(0)
    student = Activated(True, lambda inplace: nn.Dropout(0.5, inplace=inplace)).train()
    step = PipaStep(student, feature_distance_weight=1.0, **TERMS)
    assert float(step(*small_batch())["loss_feature_distance"]) == 0.0


class Classified(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, CLASSES, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.backbone(image)


@pytest.mark.parametrize("features", [None, "", "backbone", "backbone.1"])
def test_logits_are_no_encoder_maps(features: str | None) -> None:
    with pytest.raises(ValueError, match=r"^features: .* gives the network's logits.*before the classifier"):
        PipaStep(Classified(), features=features, **TERMS)
    assert PipaStep(Classified(), features="backbone.0", **TERMS).heads.pixel_head.in_channels == 8  # type: ignore


def test_a_wrong_layer_is_told_as_such() -> None:
    with pytest.raises(ValueError, match=r"^features='body' is no layer of Classified; it has: backbone$"):
        PipaStep(Classified(), features="body", **TERMS)


class Trunk(nn.Module):
    """Runs the parts of a ResNet itself, stem and all."""

    def __init__(self) -> None:
        super().__init__()
        models = pytest.importorskip("torchvision.models")
        self.trunk = models.resnet18()
        self.head = nn.Conv2d(512, CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        t = self.trunk
        x = t.maxpool(t.relu(t.bn1(t.conv1(image))))
        return self.head(t.layer4(t.layer3(t.layer2(t.layer1(x)))))


def test_parts_of_an_encoder_finer_than_its_finest_stride_are_left_out() -> None:
    settings = {**TERMS, "patch_size": [32, 32]}
    step = PipaStep(Trunk(), feature_distance_weight=0, **settings)
    maps = step.networks.features(step.networks._student, torch.zeros(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 16, 24), (128, 8, 12), (256, 4, 6), (512, 2, 3)]
    finer = PipaStep(Trunk(), feature_distance_weight=0, finest_stride=2, **settings)
    assert len(finer.networks.features(finer.networks._student, torch.zeros(1, 3, 64, 96))) == 5


class Getter(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        models = pytest.importorskip("torchvision.models")
        layers = {f"layer{i}": str(i) for i in (1, 2, 3, 4)}
        self.name = name
        self.add_module(name, models._utils.IntermediateLayerGetter(models.resnet18(), layers))
        self.head = nn.Conv2d(512, CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.get_submodule(self.name)(image)["4"])


@pytest.mark.parametrize("name", ["backbone", "body"])
def test_layers_that_torchvision_picks_are_an_encoder(name: str) -> None:
    step = PipaStep(Getter(name), feature_distance_weight=0, **{**TERMS, "patch_size": [32, 32]})
    maps = step.networks.features(step.networks._student, torch.zeros(1, 3, 64, 96))
    assert [m.shape[1] for m in maps] == [64, 128, 256, 512]


class Around(nn.Module):
    """What PEFT puts around a network: the segmentor is a part's part, and the class itself is one of transformers'."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.model = net

    def forward(self, image: Tensor) -> Any:
        return self.base_model.model(image)


class Named(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.backbone = net

    def forward(self, image: Tensor) -> Tensor:
        return self.backbone(image).logits


@pytest.mark.parametrize("wrap", [Around, Named])
def test_a_segmentor_of_transformers_inside_another_network(wrap: Callable[[nn.Module], nn.Module]) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = dict(hidden_sizes=[8, 16, 16, 24], depths=[1] * 4, num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16)
    net = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(num_labels=CLASSES, **sizes))
    if wrap is Around:
        wrap = type("PeftModel", (Around, transformers.utils.PushToHubMixin), {})
    student = wrap(net)
    step = PipaStep(student, feature_distance_weight=0, **{**TERMS, "patch_size": [32, 32]})
    maps = step.networks.features(step.networks._student, torch.zeros(1, 3, 64, 96))
    assert [m.shape[1] for m in maps] == [8, 16, 16, 24]


class OneMap(Networks):
    def outputs(self, module: nn.Module, image: Tensor) -> Any:
        raise NotImplementedError

    def features(self, module: nn.Module, image: Tensor) -> Any:
        return module.encoder(image)  # type: ignore[operator]


def test_an_adapter_that_returns_one_tensor_is_told_to_return_a_list() -> None:
    with pytest.raises(TypeError, match=r"^OneMap.features: expected a list of encoder maps, got one tensor of shape"):
        PipaStep(Activated(False), adapter=OneMap, **TERMS)


@pytest.mark.parametrize("weight", [-1, float("nan"), "x", [0.4, float("inf")]])
def test_weights_of_auxiliary_logits(weight: Any) -> None:
    with pytest.raises(ValueError, match="auxiliary_weight: expected finite numbers of at least 0"):
        PipaStep(Activated(False), auxiliary_weight=weight, **TERMS)
