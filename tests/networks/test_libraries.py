"""Networks of transformers, segmentation_models_pytorch, torchvision and timm, handed over as they are."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from library_nets import CLASSES, LIBRARY_NETS, batch
from pipa import PipaStep
from small_nets import SMALL_STEP

pytestmark = pytest.mark.slow

TERMS: dict[str, Any] = {
    **SMALL_STEP,
    "num_classes": CLASSES,
    "patch_size": [32, 32],
    "patch_iou": [0.1, 1.0],
    "mask_weight": 1.0,
    "mask_block": 16,
}
NAMES = ("source", "pixel", "feature_distance", "mix", "patch", "mask")


@pytest.fixture(params=LIBRARY_NETS)
def net(request: pytest.FixtureRequest) -> tuple[nn.Module, str]:
    library = {"smp": "segmentation_models_pytorch"}.get(request.param.split()[0], request.param.split()[0])
    pytest.importorskip(library)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make, encoder = LIBRARY_NETS[request.param]
    return make().train(), encoder


def step_of(student: nn.Module, **settings: Any) -> PipaStep:
    """With a frozen model that differs, as it does after some training."""
    imagenet = copy.deepcopy(student).requires_grad_(False)
    with torch.no_grad():
        for p in imagenet.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return PipaStep(student, imagenet=imagenet, **{**TERMS, **settings})


def test_each_term_reaches_the_encoder(net: tuple[nn.Module, str]) -> None:
    """No `features=`: the encoder is found, and each term alone gives its parameters a gradient. In bfloat16 too.

    The norms that are logged for the encoder are those of its parameters, counted here.
    """
    student, name = net
    step = step_of(student)
    encoder = [p for p in student.get_submodule(name).parameters() if p.requires_grad]
    norms_of, counted = step.networks.gradient_norms, []

    def norms(loss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        grads = torch.autograd.grad(loss, encoder, retain_graph=True, allow_unused=True)
        counted.append(float(torch.stack([g.float().norm() for g in grads if g is not None]).norm()))
        return norms_of(loss)

    step.networks.gradient_norms = norms  # type: ignore[method-assign]
    log = step(*batch(), log_gradients=True)
    logged = [float(value) for key, value in log.items() if key.startswith("encoder_grad_norm_")]
    assert logged == pytest.approx(counted, rel=1e-4)
    assert {f"encoder_grad_norm_{term}" for term in NAMES} <= set(log)
    for term in NAMES:
        assert 0 < float(log[f"encoder_grad_norm_{term}"]) <= float(log[f"grad_norm_{term}"]) * (1 + 1e-6), term
    with torch.autocast("cpu", torch.bfloat16):
        log = step(*batch(), log_gradients=True)
    assert all(torch.isfinite(value) for value in log.values())
    assert all(float(log[f"encoder_grad_norm_{term}"]) > 0 for term in NAMES), log


def test_terms_see_one_set_of_maps_and_the_teacher_is_quiet(net: tuple[nn.Module, str]) -> None:
    student, _ = net
    step = step_of(student)
    image = batch()[0]
    student.eval()
    pixel, patch = step.networks.student(image).features, step.networks.student_features(image)
    assert len(pixel) == len(patch) > 0
    for one, two in zip(pixel, patch, strict=True):
        torch.testing.assert_close(one, two)
        assert one.dim() == 4
        assert 64 / one.shape[2] >= 4
        assert one.shape[1] > 3
    assert torch.equal(step.networks.teacher(image), step.networks.teacher(image))
    for one, two in zip(step.networks.teacher_features(image), step.networks.teacher_features(image), strict=True):
        assert torch.equal(one, two)


def test_a_resume_is_exact(net: tuple[nn.Module, str]) -> None:
    """Student, optimiser, step and torch's generator: what goes on from them is what would have gone on."""
    student, _ = net
    batches = [batch() for _ in range(3)]

    def continued(student: nn.Module, step: PipaStep, optimizer: torch.optim.Optimizer, state: Any) -> list[float]:
        torch.set_rng_state(state)
        losses = []
        for one in batches[1:]:
            optimizer.zero_grad()
            losses.append(float(step(*one)["loss"]))
            optimizer.step()
        return losses

    def parts(student: nn.Module) -> tuple[PipaStep, torch.optim.Optimizer]:
        imagenet = copy.deepcopy(student).requires_grad_(False)
        step = PipaStep(student, imagenet=imagenet, **TERMS)
        return step, torch.optim.AdamW([*student.parameters(), *step.head_parameters()], lr=1e-3)

    fresh = copy.deepcopy(student)
    step, optimizer = parts(student)
    step(*batches[0])
    optimizer.step()
    saved = copy.deepcopy([student.state_dict(), step.state_dict(), optimizer.state_dict(), torch.get_rng_state()])
    expected = continued(student, step, optimizer, saved[3])
    other, other_optimizer = parts(fresh)
    fresh.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    other_optimizer.load_state_dict(saved[2])
    assert continued(fresh, other, other_optimizer, saved[3]) == expected
