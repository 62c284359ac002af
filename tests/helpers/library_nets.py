"""Tiny networks as transformers, segmentation_models_pytorch, torchvision and timm give them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 4


def transformers(kind: str, **config: Any) -> nn.Module:
    library = importlib.import_module("transformers")
    return getattr(library, f"{kind}ForSemanticSegmentation")(
        getattr(library, f"{kind}Config")(num_labels=CLASSES, **config)
    )


def segformer(**change: Any) -> nn.Module:
    small = {
        "hidden_sizes": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2],
        "sr_ratios": [4, 2, 1, 1],
        "decoder_hidden_size": 16,
        "drop_path_rate": 0.5,
        "hidden_dropout_prob": 0.3,
        "classifier_dropout_prob": 0.5,
    }
    return transformers("Segformer", **{**small, **change})


def upernet() -> nn.Module:
    library = importlib.import_module("transformers")
    backbone = library.ConvNextConfig(
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        drop_path_rate=0.3,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    sizes = {"hidden_size": 16, "auxiliary_in_channels": 16, "auxiliary_channels": 8, "auxiliary_num_convs": 1}
    return transformers("UperNet", backbone_config=backbone, **sizes)


def beit() -> nn.Module:
    return transformers(
        "Beit",
        image_size=64,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        out_indices=[1, 2, 3, 4],
        auxiliary_channels=8,
        drop_path_rate=0.3,
        use_relative_position_bias=True,
    )


def mobilevit() -> nn.Module:
    return transformers(
        "MobileViT",
        image_size=64,
        hidden_sizes=[8, 8, 8],
        neck_hidden_sizes=[4, 4, 8, 8, 8, 8, 16],
        num_attention_heads=2,
        aspp_out_channels=16,
        hidden_dropout_prob=0.3,
    )


def smp(kind: str, encoder: str, **settings: Any) -> nn.Module:
    library = importlib.import_module("segmentation_models_pytorch")
    return getattr(library, kind)(encoder_name=encoder, encoder_weights=None, classes=CLASSES, **settings)


def torchvision_fcn() -> nn.Module:
    """FCN on ResNet-18, with the auxiliary output."""
    models = importlib.import_module("torchvision.models")
    fcn = importlib.import_module("torchvision.models.segmentation.fcn")
    layers = {"layer4": "out", "layer3": "aux"}
    backbone = importlib.import_module("torchvision.models._utils").IntermediateLayerGetter(
        models.resnet18(weights=None), layers
    )
    return fcn.FCN(backbone, fcn.FCNHead(512, CLASSES), fcn.FCNHead(256, CLASSES))


def torchvision(name: str, **settings: Any) -> nn.Module:
    library = importlib.import_module("torchvision.models.segmentation")
    return getattr(library, name)(weights=None, weights_backbone=None, num_classes=CLASSES, **settings)


class OnTimm(nn.Module):
    """A network of a user's own with an encoder of timm; dropout by a function."""

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__()
        timm = importlib.import_module("timm")
        self.encoder = timm.create_model(name, features_only=True, pretrained=False, **settings)
        self.classifier = nn.Conv2d(self.encoder.feature_info.channels()[-1], CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        deep = self.encoder(image)[-1]
        return self.classifier(functional.dropout(deep, 0.5, self.training))


class OnTimmTokens(nn.Module):
    """Tokens with a class token, from a vision transformer of timm whose layers are called one by one."""

    def __init__(self) -> None:
        super().__init__()
        timm = importlib.import_module("timm")
        self.body = timm.create_model("test_vit", pretrained=False, img_size=64, drop_path_rate=0.3, num_classes=0)
        self.classifier = nn.Conv2d(self.body.embed_dim, CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.body.forward_features(image)[:, self.body.num_prefix_tokens :]
        return self.classifier(tokens.transpose(1, 2).unflatten(2, self.body.patch_embed.grid_size))


# name: (makes the network, name of its encoder)
LIBRARY_NETS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "transformers SegFormer": (segformer, "segformer"),
    "transformers UPerNet, ConvNeXt": (upernet, "backbone"),
    "transformers BEiT": (beit, "beit"),
    "transformers MobileViT": (mobilevit, "mobilevit"),
    "smp Unet, ResNet-18": (lambda: smp("Unet", "resnet18"), "encoder"),
    "smp FPN, MiT": (lambda: smp("FPN", "mit_b0", decoder_dropout=0.5), "encoder"),
    "smp Unet, ConvNeXt of timm": (
        lambda: smp("Unet", "tu-test_convnext", encoder_depth=4, decoder_channels=(32, 16, 16, 8)),
        "encoder",
    ),
    "torchvision FCN": (torchvision_fcn, "backbone"),
    "torchvision LRASPP": (lambda: torchvision("lraspp_mobilenet_v3_large"), "backbone"),
    "torchvision DeepLabV3": (lambda: torchvision("deeplabv3_mobilenet_v3_large", aux_loss=True), "backbone"),
    "timm ResNet": (lambda: OnTimm("test_resnet"), "encoder"),
    "timm ConvNeXt": (lambda: OnTimm("test_convnext", drop_path_rate=0.3), "encoder"),
    "timm ViT, tokens": (OnTimmTokens, "body"),
}


def batch(side: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Source images, their labels in blocks, target images; statistics as of normalised photos."""
    source, target = torch.randn(2, 2, 3, side, side)
    label = torch.randint(0, CLASSES, (2, side // 8, side // 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    return source, label, target
