"""Every form in which encoders return their maps, read through the step's door as the maps that were put in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from pipa import PipaStep
from pipa.networks import MapReader, PlainNetworks

CLASSES = 4
OFF = {"mix_weight": 0, "patch_weight": 0, "feature_distance_weight": 0, "num_classes": CLASSES}


class Pair(NamedTuple):
    shallow: Tensor
    deep: Tensor


class Output(OrderedDict):
    """As transformers' ModelOutput: a dictionary whose items are attributes too."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]


class Encoder(nn.Module):
    """Maps of strides 4 and 8, in the form that `form` gives them; it is called with (image, shallow, deep)."""

    def __init__(self, form: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.stem, self.stage = nn.Conv2d(3, 6, 4, 4), nn.Conv2d(6, 10, 2, 2)
        self.form = form
        self.maps: list[Tensor] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "maps": []}  # tensors of a graph cannot be copied

    def forward(self, image: Tensor) -> Any:
        shallow = self.stem(image)
        deep = self.stage(shallow.relu())
        self.maps = [shallow, deep]
        return self.form(image, shallow, deep)


class Net(nn.Module):
    """Logits of stride 4 from an encoder that stands two levels deep."""

    def __init__(self, form: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"encoder": Encoder(form)})
        self.classifier = nn.Conv2d(6, CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        self.net["encoder"](image)
        return self.classifier(self.net["encoder"].maps[0])


def last(map_bdhw: Tensor) -> Tensor:
    return map_bdhw.permute(0, 2, 3, 1)


def tokens(map_bdhw: Tensor, extra: int = 0) -> Tensor:
    own = map_bdhw.flatten(2).transpose(1, 2)
    return torch.cat([own.new_full((own.shape[0], extra, own.shape[2]), 7.0), own], dim=1)


# form -> which of [shallow, deep] it holds
FORMS: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Any], list[int]]] = {
    "one map": (lambda x, a, b: b, [1]),
    "list": (lambda x, a, b: [a, b], [0, 1]),
    "tuple": (lambda x, a, b: (a, b), [0, 1]),
    "named tuple": (lambda x, a, b: Pair(a, b), [0, 1]),
    "nested lists": (lambda x, a, b: [[a], [[b]]], [0, 1]),
    "dict": (lambda x, a, b: OrderedDict(layer1=a, layer4=b), [0, 1]),
    "ModelOutput, feature maps": (lambda x, a, b: Output(feature_maps=(a, b), attentions=None), [0, 1]),
    "ModelOutput, hidden states": (lambda x, a, b: Output(last_hidden_state=b, hidden_states=(a, a + 1, b)), [2, 1]),
    "channels last": (lambda x, a, b: [last(a), last(b)], [0, 1]),
    "tokens": (lambda x, a, b: tokens(b), [1]),
    "tokens of two sizes": (lambda x, a, b: [tokens(a), tokens(b)], [0, 1]),
    "tokens and class token": (lambda x, a, b: tokens(b, 1), [1]),
    "tokens, class and register tokens": (lambda x, a, b: tokens(b, 5), [1]),
    "map and class token": (lambda x, a, b: [[b, b.mean((2, 3))]], [1]),
    "the image first": (lambda x, a, b: [x, a, b], [0, 1]),
    "an empty map": (lambda x, a, b: [x, a.new_empty(2, 0, 32, 48), a, b], [0, 1]),
    "maps finer than stride 4": (lambda x, a, b: [x[:, :, ::2, ::2], a, b], [0, 1]),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_read(name: str) -> None:
    form, places = FORMS[name]
    torch.manual_seed(0)
    student = Net(form).train()
    step = PipaStep(student, features="net.encoder", **OFF)
    image = torch.randn(2, 3, 64, 96)
    output = step.networks.student(image)
    shallow, deep = student.net["encoder"].maps
    expected = [[shallow, deep, shallow + 1][place] for place in places]
    assert [m.shape for m in output.features] == [m.shape for m in expected]
    for found, wanted in zip(output.features, expected, strict=True):
        torch.testing.assert_close(found, wanted)
    for found, wanted in zip(step.networks.student_features(image), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    log = step(image, torch.randint(0, CLASSES, (2, 64, 96)), image)
    assert float(log["loss_pixel"]) > 0
    assert student.net["encoder"].stem.weight.grad.abs().sum() > 0


def test_finest_stride_is_a_setting() -> None:
    form = FORMS["maps finer than stride 4"][0]
    step = PipaStep(Net(form).train(), features="net.encoder", finest_stride=2, **OFF)
    assert [m.shape[2] for m in step.networks.student(torch.randn(1, 3, 64, 96)).features] == [32, 16, 8]


def test_names_of_layers_and_functions() -> None:
    """A dotted name, a list of names and a function give the same maps."""
    torch.manual_seed(0)
    student = Net(FORMS["tuple"][0]).train()
    image = torch.randn(2, 3, 64, 96)
    ways: list[Any] = [
        "net.encoder",
        ["net.encoder.stem", "net.encoder.stage"],
        lambda network, image: network.net["encoder"](image),
    ]
    for features in ways:
        step = PipaStep(student, features=features, **OFF)
        found = step.networks.student(image).features
        for one, two in zip(found, student.net["encoder"].maps, strict=True):
            torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ("net.decoder", "features='net.decoder' is no layer of Net; it has: net, classifier"),
        ("unused", "features='unused' did not run during the forward pass"),
        (lambda network, image: "maps", "features: expected feature maps .* of a .* image, got str"),
        (lambda network, image: image.mean((2, 3)), r"got Tensor with \(1, 3\)"),
    ],
)
def test_refusals_name_what_came(features: Any, message: str) -> None:
    student = Net(FORMS["list"][0])
    student.unused = nn.Identity()
    with pytest.raises((ValueError, TypeError), match=message):
        PipaStep(student, features=features, **OFF)


def test_a_square_map_is_read_as_it_was_in_other_images() -> None:
    """16 channels over 16 x 16 cells: nothing but an image of another shape tells channels-last from channels-first."""
    reader = MapReader()
    image, map_bhwd = torch.randn(1, 3, 64, 96), torch.randn(1, 16, 24, 16)
    torch.testing.assert_close(reader.read(map_bhwd, image)[0], map_bhwd.permute(0, 3, 1, 2))
    square, map_bhwd = torch.randn(1, 3, 64, 64), torch.randn(1, 16, 16, 16)
    torch.testing.assert_close(reader.read(map_bhwd, square)[0], map_bhwd.permute(0, 3, 1, 2))


class Chosen(PlainNetworks):
    """A library's adapter: it names the encoder and picks the maps out of what it returns."""

    def encoder(self, module: nn.Module) -> list[str]:
        return ["net.encoder"]

    def select(self, layer: nn.Module, value: Any) -> Any:
        return value["maps"]


def test_an_adapter_for_a_library() -> None:
    torch.manual_seed(0)
    student = Net(lambda x, a, b: {"maps": [a, b], "positions": x[:, :, :8, :8]}).train()
    step = PipaStep(student, adapter=Chosen, **OFF)
    found = step.networks.student(torch.randn(1, 3, 64, 96)).features
    for one, two in zip(found, student.net["encoder"].maps, strict=True):
        torch.testing.assert_close(one, two)
