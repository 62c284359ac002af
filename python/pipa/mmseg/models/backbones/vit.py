"""A plain vision transformer in the manner of DINOv2 and DINOv3, with a pyramid of four maps for decode heads.

Shape suffixes: B batch, N tokens, P patch tokens, D channels, E channels of one head, H W size in patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.drop import DropPath
from mmengine.model import BaseModule
from mmseg.models.necks.featurepyramid import Feature2Pyramid
from mmseg.registry import MODELS
from torch import Tensor, nn

# Names of DINOv3's parameters that differ from DINOv2's, which are ours; None: derived, not learned.
_OTHER_NAMES = {"storage_tokens": "register_tokens", "rope_embed.periods": None}


class Attention(nn.Module):
    """Multi-head self-attention ``(B, N, D) -> (B, N, D)``; the last P tokens may be rotated by their position."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_bnd: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        query, key, value = self.qkv(x_bnd).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    """A learned factor per channel, small at first."""

    def __init__(self, dim: int, initial: float = 1e-5) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x_bnd: Tensor) -> Tensor:
        return x_bnd * self.gamma


class Mlp(nn.Module):
    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, int(dim * ratio))
        self.fc2 = nn.Linear(int(dim * ratio), dim)

    def forward(self, x_bnd: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x_bnd)))


class Block(nn.Module):
    """Pre-norm transformer block with layer scale and stochastic depth."""

    def __init__(self, dim: int, heads: int, ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, ratio)
        self.ls2 = LayerScale(dim)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x_bnd: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        x_bnd = x_bnd + self.drop_path(self.ls1(self.attn(self.norm1(x_bnd), rotation)))
        return x_bnd + self.drop_path(self.ls2(self.mlp(self.norm2(x_bnd))))


class PatchEmbed(nn.Module):
    """Non-overlapping patches, ``(B, 3, height, width) -> (B, D, H, W)``."""

    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)

    def forward(self, image_bchw: Tensor) -> Tensor:
        return self.proj(image_bchw)


@MODELS.register_module()
class ViTPyramid(BaseModule):
    """Plain ViT whose maps of four depths become a pyramid at 1/4, 1/8, 1/16 and 1/32 (for patches of 16 pixels).

    The adapter is mmsegmentation's ``Feature2Pyramid`` (transposed convolutions up, pooling down), after ViTDet (Li et
    al., ECCV 2022). Parameters of the transformer have DINOv2's names, so that its files load as they are.

    Args:
        embed_dim, depth, num_heads, mlp_ratio, patch_size: 384, 12, 6, 4, 16 are ViT-S/16.
        position: ``"learned"`` (DINOv2: table of ``pretrain_size`` patches a side, resized to the image) or
            ``"rotary"`` (DINOv3: queries and keys of patches are rotated by their place).
        register_tokens: extra tokens beside the class token.
        out_indices: the four blocks whose output is used; evenly spaced by default.
        drop_path_rate: stochastic depth, growing with depth.
        pyramid: False returns the four maps as they are, all at 1/patch_size.
        norm_cfg: norm of the pyramid.

    Input ``(B, 3, height, width)`` of any size (padded on the right and below to whole patches); output four maps with
    ``embed_dim`` channels each.
    """

    def __init__(
        self,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        patch_size: int = 16,
        position: str = "learned",
        pretrain_size: int = 37,
        register_tokens: int = 0,
        out_indices: Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        pyramid: bool = True,
        norm_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if position not in ("learned", "rotary"):
            raise ValueError(f"ViTPyramid: position must be 'learned' or 'rotary', got {position!r}")
        if embed_dim % num_heads or (position == "rotary" and embed_dim // num_heads % 4):
            raise ValueError(
                f"ViTPyramid: embed_dim {embed_dim} must split into num_heads {num_heads}"
                " (with rotary positions into heads of a multiple of 4 channels)"
            )
        indices = [depth * i // 4 - 1 for i in range(1, 5)] if out_indices is None else list(out_indices)
        if len(indices) != 4 or not all(0 <= i < depth for i in indices) or sorted(indices) != indices:
            raise ValueError(f"ViTPyramid: out_indices must be four rising block numbers below {depth}, got {indices}")
        self.patch_size, self.out_indices, self.position = patch_size, indices, position
        self.patch_embed = PatchEmbed(embed_dim, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, register_tokens, embed_dim)) if register_tokens else None
        self.pos_embed = (
            nn.Parameter(torch.zeros(1, 1 + pretrain_size**2, embed_dim)) if position == "learned" else None
        )
        rates = torch.linspace(0, drop_path_rate, depth).tolist()
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio, rate) for rate in rates)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head_dim = embed_dim // num_heads
        self.out_channels = [embed_dim] * 4
        self.pyramid: nn.Module | None = None
        if pyramid:
            self.pyramid = Feature2Pyramid(embed_dim, (4, 2, 1, 0.5), norm_cfg or {"type": "BN"})
        self.register_load_state_dict_pre_hook(_take_other_names)

    def init_weights(self) -> None:
        """Normal weights of deviation 0.02, or those of ``init_cfg``; the pyramid keeps torch's."""
        if self.init_cfg is not None:
            super().init_weights()
            return
        for token in (self.cls_token, self.register_tokens, self.pos_embed):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, image_bchw: Tensor) -> tuple[Tensor, ...]:
        pad_h, pad_w = (-length % self.patch_size for length in image_bchw.shape[2:])
        patch_bdhw = self.patch_embed(F.pad(image_bchw, (0, pad_w, 0, pad_h)))
        batch, dim, height, width = patch_bdhw.shape
        x_bnd = patch_bdhw.flatten(2).transpose(1, 2)
        first: Tensor = self.cls_token
        rotation = None
        if self.pos_embed is not None:
            first = first + self.pos_embed[:, :1]
            x_bnd = x_bnd + self._positions(height, width)
        else:
            rotation = rotary(height, width, self.head_dim, x_bnd)
        extra = [first] if self.register_tokens is None else [first, self.register_tokens]
        x_bnd = torch.cat([token.expand(batch, -1, -1) for token in extra] + [x_bnd], dim=1)
        # A single row or column of patches cannot be pooled to half.
        if self.pyramid is not None and min(height, width) == 1:
            raise ValueError(f"ViTPyramid: the image must be more than {self.patch_size} pixels high and wide")
        maps = []
        for i, block in enumerate(self.blocks):
            x_bnd = block(x_bnd, rotation)
            if i in self.out_indices:
                patches = self.norm(x_bnd)[:, -height * width :]
                maps.append(patches.transpose(1, 2).reshape(batch, dim, height, width))
        return tuple(maps) if self.pyramid is None else self.pyramid(maps)

    def _positions(self, height: int, width: int) -> Tensor:
        """The learned table ``(1, P, D)``, resized to ``height x width`` patches."""
        if self.pos_embed is None:
            raise RuntimeError("ViTPyramid: rotary positions have no table")
        table = self.pos_embed[:, 1:]
        side = math.isqrt(table.shape[1])
        if (side, side) == (height, width):
            return table
        grid = table.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        grid = F.interpolate(grid.float(), (height, width), mode="bicubic", align_corners=False, antialias=True)
        return grid.flatten(2).transpose(1, 2).to(table.dtype)


def rotary(height: int, width: int, head_dim: int, like: Tensor, base: float = 100.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine ``(P, E)`` of the angles of patches: a quarter of the channels for y, one for x, then again.

    Places are in [-1, 1] at patch centres, whatever the size of the image; the periods are ``base ** (2k / (E / 2))``.
    """
    y = (torch.arange(height, device=like.device, dtype=torch.float32) + 0.5) / height * 2 - 1
    x = (torch.arange(width, device=like.device, dtype=torch.float32) + 0.5) / width * 2 - 1
    place_p2 = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)
    k = torch.arange(head_dim // 4, device=like.device, dtype=torch.float32)
    periods = base ** (2 * k / (head_dim // 2))
    angle = (2 * math.pi * place_p2[:, :, None] / periods).flatten(1).repeat(1, 2)
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def rotate(x_bhne: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates the last P tokens (the patches) and leaves class and register tokens as they are."""
    cos_pe, sin_pe = rotation
    extra = x_bhne.shape[2] - cos_pe.shape[0]
    first, patches = x_bhne[:, :, :extra], x_bhne[:, :, extra:]
    left, right = patches.chunk(2, dim=-1)
    return torch.cat([first, patches * cos_pe + torch.cat([-right, left], dim=-1) * sin_pe], dim=2)


def _take_other_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before loading: DINOv3's names become ours; what only pre-training uses is dropped."""
    for old, new in _OTHER_NAMES.items():
        if prefix + old in state:
            value = state.pop(prefix + old)
            if new is not None:
                state[prefix + new] = value
    for key in [key for key in state if key.startswith(prefix)]:
        if key == f"{prefix}mask_token":
            del state[key]
        elif key.endswith(".attn.qkv.bias_mask"):
            # DINOv3 multiplies the bias by this mask: its keys have none.
            bias = key.removesuffix("_mask")
            state[bias] = state[bias] * state.pop(key).nan_to_num(nan=1.0)
