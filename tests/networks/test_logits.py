"""What networks return as logits: dictionaries, outputs of libraries, auxiliary maps with weights, aligned corners."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from pipa import PipaStep

CLASSES = 4
OFF = {"mix_weight": 0, "pixel_weight": 0, "patch_weight": 0, "feature_distance_weight": 0, "num_classes": CLASSES}


class Output(OrderedDict):
    """As transformers' ModelOutput."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]


class Net(nn.Module):
    """Three maps of logits of strides 4, 8 and 16, in the form that ``form`` gives them."""

    def __init__(self, form: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, CLASSES, s, s) for s in (4, 8, 16)])
        self.form = form

    def forward(self, image: Tensor) -> Any:
        return self.form(*self.maps(image))

    def maps(self, image: Tensor) -> list[Tensor]:
        return [layer(image) for layer in self.layers]


# form -> weights of the three maps
FORMS: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Any], dict[str, Any], list[float]]] = {
    "tensor": (lambda a, b, c: a, {}, [1, 0, 0]),
    "dict": (lambda a, b, c: {"logits": a}, {}, [1, 0, 0]),
    "ModelOutput": (lambda a, b, c: Output(loss=None, logits=a, hidden_states=(b, c)), {}, [1, 0, 0]),
    "torchvision's": (lambda a, b, c: OrderedDict(out=a, aux=b), {"auxiliary_weight": 0.5}, [1, 0.5, 0]),
    "auxiliary logits": (lambda a, b, c: {"logits": a, "aux_logits": [b, c]}, {}, [1, 0.4, 0.4]),
    "a weight each": (
        lambda a, b, c: {"logits": a, "aux_1": b, "aux_2": c},
        {"auxiliary_weight": [0.2, 0.3]},
        [1, 0.2, 0.3],
    ),
    "deep supervision": (lambda a, b, c: [a, b, c], {"auxiliary_weight": [1.0, 0.5]}, [1, 1, 0.5]),
    "an image's classes beside": (lambda a, b, c: (a, b.mean((2, 3))), {}, [1, 0, 0]),
    "auxiliary maps that weigh nothing": (lambda a, b, c: (a, b), {"auxiliary_weight": 0}, [1, 0, 0]),
}


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_the_source_term(name: str, align: bool) -> None:
    """It is the sum of the maps' cross entropies, each resized as the network does it."""
    torch.manual_seed(0)
    form, settings, weights = FORMS[name]
    student = Net(form).train()
    image, label = torch.randn(2, 3, 64, 64), torch.randint(0, CLASSES, (2, 64, 64))
    step = PipaStep(student, align_corners=align, **settings, **OFF)
    full = [interpolate(m, (64, 64), mode="bilinear", align_corners=align) for m in student.maps(image)]
    expected = sum(w * cross_entropy(logits, label) for w, logits in zip(weights, full, strict=True))
    assert float(step(image, label, image)["loss_source"]) == pytest.approx(float(expected.detach()), rel=1e-5)
    teacher = interpolate(step.networks.teacher(image), (64, 64), mode="bilinear")
    torch.testing.assert_close(teacher, full[0])


@pytest.mark.parametrize(
    ("form", "settings", "message"),
    [
        (lambda a, b, c: (a, b, c), {"auxiliary_weight": [0.4]}, "auxiliary_weight: expected 2 weights, .* got 1"),
        (lambda a, b, c: {"class_queries_logits": a, "pred_masks": b}, {}, "classifies masks .*one map of logits"),
        (lambda a, b, c: {"maps": a}, {}, "must return logits"),
        (lambda a, b, c: "logits", {}, "must return logits .* got str"),
    ],
)
def test_refusals(form: Any, settings: dict[str, Any], message: str) -> None:
    image, label = torch.randn(1, 3, 64, 64), torch.randint(0, CLASSES, (1, 64, 64))
    with pytest.raises((ValueError, TypeError), match=message):
        PipaStep(Net(form).train(), **settings, **OFF)(image, label, image)
