"""Which maps of a segmentor the projection heads read: the encoder's, or the one that its decode head classifies.

Shape suffixes: B batch, D channels, h w size of a map, H W size of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from pipa.mmseg.models.segmentors.step_adapter import SegmentorNetworks, decode, encode, main_head
from pipa.networks import Outputs, OwnOutputs
from pipa.networks.trial import projection_heads, trial

HEAD = "head"
SETTING = f"projection_layers: {HEAD!r}"


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
        with classified(main_head(module)) as seen:
            out = super().outputs(module, image)
        detail = ([last_map(seen, module)], None)
        if isinstance(out, OwnOutputs):
            return OwnOutputs(out.heads, out.features, detail, own_loss=out.own_loss)
        return out._replace(detail=detail)

    def embedded(self, module: nn.Module, image: Tensor) -> Sequence[Tensor]:
        maps = encode(module, image, self.finest_stride)
        with classified(main_head(module)) as seen:
            decode(module, maps.head, auxiliary=False)
        return [last_map(seen, module), *maps.backbone]


def check_head_map(model: Any, compiled: bool) -> None:
    """Refuse what the setting cannot be honoured with.

    Raises:
        ValueError: the segmentor has passes or the decode head a classifier of its own, or they run compiled.
    """
    name = type(model).__name__
    if hasattr(model, "segmentor_outputs"):
        raise ValueError(f"{SETTING} expects a plain EncoderDecoder, got {name}, which fuses scales in its head")
    if compiled:
        raise ValueError(f"{SETTING} expects compile=False, because a compiled head does not show its inner maps")
    if not isinstance(getattr(main_head(model), "conv_seg", None), nn.Module):
        head = type(main_head(model)).__name__
        raise ValueError(f"{SETTING} expects a decode head that classifies by conv_seg, got {head}, which has none")


@contextmanager
def classified(head: Any) -> Iterator[list[Tensor]]:
    """Collects the inputs of ``head.conv_seg``, before the dropout that may precede it, while the head runs."""
    seen: list[Tensor] = []
    dropped: dict[str, Tensor] = {}

    def before_dropout(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        dropped.update(before=inputs[0], after=output)

    def before_classifier(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(dropped["before"] if dropped.get("after") is inputs[0] else inputs[0])

    handles = [head.conv_seg.register_forward_pre_hook(before_classifier)]
    if isinstance(getattr(head, "dropout", None), nn.Module):
        handles.append(head.dropout.register_forward_hook(before_dropout))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def last_map(seen: list[Tensor], model: Any) -> Tensor:
    """The map (B, D, h, w) that the main head classified last.

    Raises:
        TypeError: there is none: the head has a conv_seg and does not use it so.
    """
    if not seen or seen[-1].dim() != 4:
        got = f"one of size {tuple(seen[-1].shape)}" if seen else "none"
        head = type(main_head(model)).__name__
        raise TypeError(f"{SETTING} expects a map (B, D, h, w) to pass conv_seg of {head}, got {got}")
    return seen[-1]
