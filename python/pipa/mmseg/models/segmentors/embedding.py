"""Which maps of a segmentor the projection heads read: the encoder's, or the one that its decode head classifies.

Shape suffixes: B batch, D channels, h w size of a map, H W size of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pipa.mmseg.models.segmentors.head_map import HEAD, classifying
from pipa.mmseg.models.segmentors.step_adapter import SegmentorNetworks, decode, encode, main_head
from pipa.networks import Outputs, OwnOutputs
from pipa.networks.trial import projection_heads, trial


def embedding(dims: dict[str, Any]) -> tuple[type[SegmentorNetworks], dict[str, Any]]:
    """The adapter that gives the projection heads their maps, and ``dims`` with positions among those maps.

    dims: ``pixel_dim``, ``patch_dim``, ``projection_hidden`` and ``projection_layers`` of :class:`PipaHook`.

    Raises:
        ValueError: ``projection_layers`` is a word other than "head".
    """
    layers = dims.get("projection_layers")
    if layers == HEAD:
        return HeadMapNetworks, {**dims, "projection_layers": [0]}
    if isinstance(layers, str):
        raise ValueError(
            f"projection_layers: expected {HEAD!r}, positions of the encoder's maps such as [-1], or None; "
            f"got {layers!r}"
        )
    return SegmentorNetworks, dims


def build_heads(core: nn.Module, terms: dict[str, bool], dims: dict[str, Any]) -> nn.ModuleDict:
    """Projection heads of the terms that are on, with the channels of the maps that they read."""
    adapter, dims = embedding(dims)
    channels = trial(adapter(core, core, None, None, None), core).channels
    wanted = {name: dims[f"{name}_dim"] for name, on in terms.items() if on}
    return projection_heads(channels, wanted, dims["projection_hidden"], dims.get("projection_layers"), core)


class HeadMapNetworks(SegmentorNetworks):
    """Plain segmentors whose embeddings are made of the input of the main decode head's last convolution.

    For DAFormer's head that is the fused map, of stride 4. All other terms see what they see without the setting: the
    map reaches the pixel terms as detail of the whole image, the patch term before the encoder's maps. The crops of the
    patch term then pass the head, and its batch norms see them.
    """

    def outputs(self, module: nn.Module, image: Tensor) -> Outputs:
        with classifying(main_head(module)) as seen:
            out = super().outputs(module, image)
            detail = ([seen()], None)
        if isinstance(out, OwnOutputs):
            return OwnOutputs(out.heads, out.features, detail, own_loss=out.own_loss)
        return out._replace(detail=detail)

    def embedded(self, module: nn.Module, image: Tensor) -> Sequence[Tensor]:
        maps = encode(module, image, self.finest_stride)
        with classifying(main_head(module)) as seen:
            decode(module, maps.head, auxiliary=False)
            return [seen(), *maps.backbone]
