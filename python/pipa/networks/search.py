"""Where the encoder of a network is, when nobody says: by the libraries its parts come from, then by name."""

from __future__ import annotations

from torch import nn

# Modules of these packages are encoders, as far as they hold what is named beside; the first package that fits counts.
ENCODERS = {
    "transformers.models": "config",
    "timm.models": "feature_info",
    "segmentation_models_pytorch.encoders": "out_channels",
    "torchvision.models._utils": "return_layers",
    "torchvision.models": "inplanes",
    "mmseg.models.backbones": "init_cfg",
    "mmpretrain.models.backbones": "init_cfg",
    "pipa.mmseg.models.backbones": "init_cfg",
}
NAMES = ("backbone", "encoder")


def encoder_names(module: nn.Module) -> list[str]:
    """The name of the one outermost part that a library made as an encoder, else of a child called so; else none."""
    found: list[str] = []
    _collect(module, "", found)
    if len(found) == 1:
        return found
    children = dict(module.named_children())
    return [n for n in NAMES if n in children and _runs(children[n]) and not _is_segmentor(children[n])][:1]


def _collect(module: nn.Module, prefix: str, found: list[str]) -> None:
    base = base_name(module)
    if base is not None:
        found.append(f"{prefix}{base}")
        return
    for name, child in module.named_children():
        full = f"{prefix}{name}"
        if is_encoder(child):
            found.append(full)
        else:
            _collect(child, f"{full}.", found)


def base_name(module: nn.Module) -> str | None:
    """The child of a transformers network that is its base model ("segformer", "beit", ...); None for other modules."""
    if not any(kind.__name__ == "PreTrainedModel" for kind in type(module).__mro__):
        return None
    base = getattr(module, "base_model", module)
    return next((name for name, child in module.named_children() if child is base), None)


def is_encoder(module: nn.Module) -> bool:
    """Whether a library made ``module`` as an encoder (or as a classifier, whose inner layers then hold the maps)."""
    for kind in type(module).__mro__:
        for package, mark in ENCODERS.items():
            if kind.__module__ == package or kind.__module__.startswith(f"{package}."):
                return hasattr(module, mark) and not _is_segmentor(module)
    return False


def _is_segmentor(module: nn.Module) -> bool:
    return any("ForSemanticSegmentation" in kind.__name__ for kind in type(module).__mro__)


def _runs(module: nn.Module) -> bool:
    # A list or dictionary of modules has no pass; what derives from one, as torchvision's IntermediateLayerGetter, may.
    return type(module).forward not in (nn.ModuleList.forward, nn.ModuleDict.forward)


def library(module: nn.Module) -> str | None:
    """The package that the network's class, or one that it derives from, comes from; None: PyTorch's or the user's."""
    for kind in type(module).__mro__:
        root = kind.__module__.split(".")[0]
        if root not in ("torch", "builtins", "__main__") and root in LIBRARIES:
            return root
    return None


# Packages whose networks have an adapter of their own, and where it is; it is imported when such a network comes.
LIBRARIES = {
    "transformers": "pipa.networks.transformers:TransformersNetworks",
    "segmentation_models_pytorch": "pipa.networks.smp:SmpNetworks",
    "torchvision": "pipa.networks.torchvision:TorchvisionNetworks",
    "mmseg": "pipa.mmseg.models.segmentors.step_adapter:SegmentorNetworks",
}
