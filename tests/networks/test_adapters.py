"""An adapter of a user's own: its maps, its logits, and a supervised loss of the network's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipa import PipaStep
from pipa.networks import Head, Networks, Outputs, OwnOutputs

CLASSES = 4
OFF = {"mix_weight": 0, "patch_weight": 0, "feature_distance_weight": 0, "num_classes": CLASSES}


class Net(nn.Module):
    """(logits, maps)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.classifier = nn.Conv2d(3, 6, 4, 4), nn.Conv2d(6, CLASSES, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        deep = self.encoder(image)
        return self.classifier(deep.relu()), [deep]


class Whole(Networks):
    """As a user writes it."""

    def outputs(self, module: nn.Module, image: Tensor) -> Outputs:
        logits, maps = module(image)
        return OwnOutputs([Head(logits)], maps, own_loss=lambda label: logits.square().mean())

    def features(self, module: nn.Module, image: Tensor) -> list[Tensor]:
        return module(image)[1]

    def logits(self, module: nn.Module, image: Tensor) -> Tensor:
        return module(image)[0]


def test_an_adapter_of_ones_own() -> None:
    """Its own loss, value and gradient, takes the place of the cross entropy on source images, and nowhere else."""
    torch.manual_seed(0)
    student = Net().train()
    image, label = torch.randn(2, 3, 64, 64), torch.randint(0, CLASSES, (2, 64, 64))
    expected = student(image)[0].square().mean()
    (gradient,) = torch.autograd.grad(expected, [student.classifier.weight])
    log = PipaStep(student, adapter=Whole, **{**OFF, "pixel_weight": 0})(image, label, image)
    assert float(log["loss_source"]) == pytest.approx(float(expected.detach()))
    torch.testing.assert_close(student.classifier.weight.grad, gradient)
    seen: list[Tensor] = []

    class Spied(Whole):
        def outputs(self, module: nn.Module, image: Tensor) -> Outputs:
            heads, maps, detail = super().outputs(module, image)

            def own_loss(label: Tensor) -> Tensor:
                seen.append(label)
                return heads[0][0].square().mean()

            return OwnOutputs(heads, maps, detail, own_loss=own_loss)

    log = PipaStep(student, adapter=Spied, **{**OFF, "mix_weight": 1.0, "mask_weight": 1.0, "threshold": 0.0})(
        image, label, image
    )
    assert len(seen) == 1
    assert torch.equal(seen[0], label)
    assert min(float(log[f"loss_{term}"]) for term in ("pixel", "mix", "mask")) > 0


@pytest.mark.parametrize(
    "value", [torch.zeros(2), torch.zeros(()), torch.zeros(1), torch.zeros((1,), dtype=torch.long)]
)
def test_an_own_loss_that_is_no_number_is_refused(value: Tensor) -> None:
    class Wrong(Whole):
        def outputs(self, module: nn.Module, image: Tensor) -> Outputs:
            return OwnOutputs(*super().outputs(module, image), own_loss=lambda label: value)

    step = PipaStep(Net().train(), adapter=Wrong, **{**OFF, "pixel_weight": 0})
    image, label = torch.randn(1, 3, 64, 64), torch.randint(0, CLASSES, (1, 64, 64))
    if value.dim() == 0:
        assert float(step(image, label, image)["loss_source"]) == 0.0
        return
    with pytest.raises(Exception, match="own loss: expected one floating-point number"):
        step(image, label, image)
