"""Plain vision transformers of timm (DINOv2, DINOv3, ...) as encoders: maps of four depths, or a pyramid of them.

Shape suffixes: B batch, N tokens, D channels, H W size of the image, h w size in patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.models.necks.featurepyramid import Feature2Pyramid
from mmseg.registry import MODELS
from torch import Tensor, nn

from pipa.mmseg.models.backbones.encoder_mode import Mode, apply_mode, base_names
from pipa.mmseg.models.backbones.vit_files import load_vit


@MODELS.register_module()
class ViTPyramid(BaseModule):
    """A plain ViT of timm. Its maps of four depths are all at 1/patch of the image; the pyramid makes of them maps of
    4, 2, 1 and 1/2 times that size (for patches of 16 pixels: 1/4, 1/8, 1/16, 1/32).

    The pyramid is mmsegmentation's ``Feature2Pyramid`` (transposed convolutions up, pooling down), after ViTDet (Li et
    al., ECCV 2022). Learned positions are resampled to the size of the image; rotary ones (DINOv3) fit any.

    Weights come from a local file, ``init_cfg=dict(type="Pretrained", checkpoint=FILE)``, in the layout of the released
    DINOv2 and DINOv3, of timm or of transformers (:mod:`pipa.mmseg.models.backbones.vit_files`). Nothing is downloaded.

    Args:
        model_name: a transformer of timm, for example ``"vit_base_patch14_dinov2"``,
            ``"vit_large_patch14_reg4_dinov2"`` (register tokens) or ``"vit_base_patch16_dinov3"``.
        encoder: what is trained of the transformer. ``"full"``: all of it. ``"frozen"``: nothing. ``"lora"``: low-rank
            adapters beside the linear layers of its blocks, by the package ``peft``.
        lora: settings of the adapters, see :func:`pipa.mmseg.models.backbones.encoder_mode.apply_mode`.
        out_indices: the four blocks whose output is used; evenly spaced if None.
        drop_path_rate: stochastic depth, growing with depth.
        pyramid: False returns the four maps as they are, all at 1/patch; the config's ``neck`` may make the pyramid
            then, and the losses on features see the transformer's own maps.
        norm_cfg: norm of the pyramid.
        kwargs: for ``timm.create_model``, for example ``embed_dim=192, depth=4, num_heads=3, img_size=224``.

    Input ``(B, 3, H, W)``, output four maps ``(B, embed_dim, h, w)``. In training H and W must be multiples of the
    patch; in evaluation an image of another size is first resized to the next multiples, which the maps then cover
    exactly.

    Raises:
        ImportError: timm, or for adapters peft, is missing.
        ValueError: timm has no such transformer, a wrong argument, or an image that does not fit.

    Example:
        >>> import torch, pipa.mmseg
        >>> vit = pipa.mmseg.ViTPyramid("vit_small_patch14_dinov2", embed_dim=32, depth=4, num_heads=2)
        >>> [tuple(m.shape) for m in vit(torch.zeros(1, 3, 56, 70))]
        [(1, 32, 16, 20), (1, 32, 8, 10), (1, 32, 4, 5), (1, 32, 2, 2)]
    """

    hidden_tokens: Tensor | None = None
    """``(B, 1, H, W)``, true where the image is hidden: set by :func:`pipa.networks.tokens.hiding_tokens`."""

    def __init__(
        self,
        model_name: str,
        encoder: Mode = "full",
        lora: dict[str, Any] | None = None,
        out_indices: Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        pyramid: bool = True,
        norm_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        vit = create(model_name, drop_path_rate, kwargs)
        depth, dim = len(vit.blocks), int(vit.embed_dim)
        indices = [depth * i // 4 - 1 for i in range(1, 5)] if out_indices is None else list(out_indices)
        if len(indices) != 4 or not all(0 <= i < depth for i in indices) or sorted(set(indices)) != indices:
            raise ValueError(
                f"ViTPyramid: out_indices: expected four rising block numbers below {depth}, got {indices}"
            )
        self.out_indices, self.out_channels = indices, [dim] * 4
        self.patch_size = int(vit.patch_embed.patch_size[0])
        self.vit = vit
        # What a hidden patch becomes; zeros where the file has none. Not trained: most iterations hide nothing.
        self.register_buffer("mask_token", torch.zeros(dim))
        self.pyramid: nn.Module | None = None
        if pyramid:
            self.pyramid = Feature2Pyramid(dim, (4, 2, 1, 0.5), norm_cfg or {"type": "BN"})
        self.encoder = encoder
        apply_mode(vit, encoder, lora)
        self.register_load_state_dict_pre_hook(base_names)
        self.train()

    def init_weights(self) -> None:
        """Load the file that ``init_cfg`` names; without one timm's random weights stay."""
        cfg = self.init_cfg if isinstance(self.init_cfg, dict) else {}
        if cfg.get("type") != "Pretrained":
            super().init_weights()
            return
        token = load_vit(self.vit, cfg["checkpoint"])
        if token is not None:
            self.get_buffer("mask_token").copy_(token)
        self._is_init = True

    def train(self, mode: bool = True) -> ViTPyramid:
        """A frozen transformer stays in evaluation mode: it draws no paths to drop."""
        super().train(mode)
        if self.encoder == "frozen":
            self.vit.eval()
        return self

    def forward(self, image_bchw: Tensor) -> tuple[Tensor, ...]:
        image_bchw = self._fitting(image_bchw)
        grid = [n // self.patch_size for n in image_bchw.shape[2:]]
        if self.pyramid is not None and min(grid) == 1:
            # A single row or column of patches cannot be pooled to half.
            raise ValueError(f"ViTPyramid: the image must be more than {self.patch_size} pixels high and wide")
        with self._hiding(grid):
            maps = self.vit.forward_intermediates(
                image_bchw, indices=self.out_indices, norm=True, intermediates_only=True
            )
        return tuple(maps) if self.pyramid is None else self.pyramid(maps)

    def _fitting(self, image_bchw: Tensor) -> Tensor:
        """The image, or in evaluation one resized to whole patches."""
        patch, size = self.patch_size, tuple(image_bchw.shape[2:])
        next_size = (-(-size[0] // patch) * patch, -(-size[1] // patch) * patch)
        if size == next_size:
            return image_bchw
        if self.training:
            raise ValueError(
                f"ViTPyramid: image: expected height and width in multiples of the patch, {patch} pixels, got "
                f"{size[0]} x {size[1]}; the next fitting crop is {next_size[0]} x {next_size[1]}"
            )
        return F.interpolate(image_bchw, next_size, mode="bilinear", align_corners=False)

    @contextmanager
    def _hiding(self, grid: list[int]) -> Iterator[None]:
        """Inside, embeddings of hidden patches are the mask token; a patch is hidden if its centre is."""
        if self.hidden_tokens is None:
            yield
            return
        # Cell i of the resized mask is the pixel at floor((i + 1/2) H / h).
        hidden = F.interpolate(self.hidden_tokens.float(), grid, mode="nearest-exact") > 0.5
        token = self.get_buffer("mask_token")

        def replace(_: nn.Module, __: Any, embedding_bhwd: Tensor) -> Tensor:
            return embedding_bhwd.where(~hidden.movedim(1, -1), token.to(embedding_bhwd.dtype))

        handle = self.vit.patch_embed.register_forward_hook(replace)
        try:
            yield
        finally:
            handle.remove()


def create(model_name: str, drop_path_rate: float, kwargs: dict[str, Any]) -> Any:
    """A plain transformer of timm with random weights, for images of any size."""
    try:
        import timm
    except ImportError as error:
        raise ImportError('ViTPyramid needs timm: pip install "pipa-rs[timm]"') from error
    if model_name.split(".")[0] not in timm.list_models(model_name.split(".")[0]):
        near = timm.list_models("*dinov[23]*")
        raise ValueError(f"ViTPyramid: model_name: expected a transformer of timm such as {near}, got {model_name!r}")
    arguments = {"pretrained": False, "num_classes": 0, "dynamic_img_size": True, **kwargs}
    try:
        vit: Any = timm.create_model(model_name, drop_path_rate=drop_path_rate, **arguments)
    except TypeError as error:  # a convolutional network knows no dynamic_img_size
        raise ValueError(f"ViTPyramid: {model_name} cannot be made as a plain transformer ({error})") from error
    embedding: Any = getattr(vit, "patch_embed", None)
    if not all(hasattr(vit, name) for name in ("blocks", "forward_intermediates", "embed_dim")) or not (
        hasattr(embedding, "patch_size") and len(set(embedding.patch_size)) == 1
    ):
        raise ValueError(
            f"ViTPyramid: model_name: expected a plain transformer with square patches, got {model_name!r}"
        )
    return vit
