"""One config of each family of mmsegmentation, as it is shipped but for its widths, through a whole iteration."""

from __future__ import annotations

import copy
from typing import Any

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.datasets.transforms import GenerateEdge
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules
from torch import Tensor

import pipa.mmseg  # noqa: F401  (registers)
from mmseg_families import CLASSES, FAMILIES, SIDE, small
from pipa import PipaStep
from pipa.mmseg.models.segmentors.embedding import HeadMapNetworks
from pipa.mmseg.models.segmentors.head_map import check_head_map
from pipa.mmseg.models.segmentors.step_adapter import main_head
from small_nets import SMALL_STEP

pytestmark = pytest.mark.slow

TERMS: dict[str, Any] = {
    **SMALL_STEP,
    "num_classes": CLASSES,
    "patch_size": [SIDE, SIDE],
    "patch_iou": [0.0, 1.0],
}


def samples(label: Tensor) -> list[Any]:
    """Label and edges, as a pipeline with GenerateEdge packs them."""
    found = []
    for one in label:
        made = GenerateEdge(edge_width=4).transform(
            {"img_shape": one.shape, "gt_seg_map": one.numpy().astype(np.uint8)}
        )
        edges = torch.from_numpy(made["gt_edge_map"])[None].long()
        found.append(SegDataSample(gt_sem_seg=PixelData(data=one[None]), gt_edge_map=PixelData(data=edges)))
    return found


def family(name: str) -> Any:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    register_all_modules(init_default_scope=True)
    torch.manual_seed(0)
    return MODELS.build(ConfigDict(small(name)))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_trains_with_its_own_losses(name: str) -> None:
    """The source term is what mmsegmentation trains; every term reaches the encoder; the teacher answers alike."""
    model = family(name).train()
    for module in model.modules():  # two passes are to be compared
        for noise in ("p", "drop_prob"):
            if isinstance(getattr(module, noise, None), float):
                setattr(module, noise, 0.0)
    source, target = torch.randn(2, 2, 3, SIDE, SIDE)
    label = torch.randint(0, CLASSES, (2, SIDE // 8, SIDE // 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    label[:, :9, :20] = 255
    twin = copy.deepcopy(model)
    expected, _ = twin.parse_losses(twin.loss(source, samples(label)))

    imagenet = copy.deepcopy(model).requires_grad_(False)
    with torch.no_grad():
        for p in imagenet.parameters():
            p.add_(0.05 * torch.randn_like(p))
    step = PipaStep(model, imagenet=imagenet, **TERMS)
    step.networks.samples = samples(label)
    log = step(source, label, target, log_gradients=True)
    encoder = {id(p) for p in model.backbone.parameters()}
    assert {id(p) for p in step.networks.encoder_weights} <= encoder
    # SegNeXt's head draws its bases with the first image that a copy of it sees.
    assert float(log["loss_source"]) == pytest.approx(float(expected.detach()), rel=0.05 if name == "segnext" else 1e-4)
    for term in ("source", "pixel", "feature_distance", "mix", "patch"):
        assert torch.isfinite(log[f"loss_{term}"])
        assert float(log[f"encoder_grad_norm_{term}"]) > 0, term
    predicted = step.networks.teacher(target)
    assert predicted.shape == (2, CLASSES, SIDE, SIDE)
    assert torch.equal(predicted, step.networks.teacher(target))
    maps = step.networks.student_features(source)
    step.teacher.eval()
    assert [m.shape for m in maps] == [m.shape for m in step.networks.features(step.teacher, source)]


# Their heads classify otherwise: queries of masks, kernels that are refined.
OTHER_CLASSIFIER = {"knet": "IterativeDecodeHead", "segmenter": "SegmenterMaskTransformerHead"}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_embedding_can_be_made_of_what_the_head_classifies(name: str) -> None:
    """``projection_layers="head"``: the last convolution makes the model's own logits of the map, or it is refused."""
    model = family(name).eval()
    arguments: Any = (model, main_head(model), False, "projection_layers")
    if name in OTHER_CLASSIFIER:
        with pytest.raises(ValueError, match=f"classifies by conv_seg, got {OTHER_CLASSIFIER[name]}"):
            check_head_map(*arguments)
        return
    check_head_map(*arguments)
    networks, image = HeadMapNetworks(model, model, None, None, None), torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        logits = networks.logits(model, image)
        first, *encoder = networks.embedded(model, image)
        again = resize(
            main_head(model).conv_seg(first), (SIDE, SIDE), mode="bilinear", align_corners=model.align_corners
        )
        assert torch.equal(again, logits)
        assert [m.shape for m in encoder] == [m.shape for m in networks.features(model, image)]
        detail = networks.outputs(model, image).detail
        assert detail is not None
        assert torch.equal(detail[0][0], first)
