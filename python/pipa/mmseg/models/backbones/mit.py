"""Mix Transformer (MiT) encoder of SegFormer, on top of mmsegmentation's.

Tokens ``(B, N, D)`` as they lie in memory are a channels-last map ``(B, D, H, W)``: blocks and stages here pass from
one to the other by a change of strides, where mmsegmentation copies.

Shape suffixes: B batch, N tokens, M reduced tokens, D channels, H W size of the stage's map, E channels of one head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.models.backbones.mit import EfficientMultiheadAttention, MixFFN, MixVisionTransformer
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Xie et al., SegFormer, NeurIPS 2021, table 6: channels of the first stage and blocks of each stage.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "b0": {"embed_dims": 32, "num_layers": (2, 2, 2, 2)},
    "b1": {"embed_dims": 64, "num_layers": (2, 2, 2, 2)},
    "b2": {"embed_dims": 64, "num_layers": (3, 4, 6, 3)},
    "b3": {"embed_dims": 64, "num_layers": (3, 4, 18, 3)},
    "b4": {"embed_dims": 64, "num_layers": (3, 8, 27, 3)},
    "b5": {"embed_dims": 64, "num_layers": (3, 6, 40, 3)},
}

# The published weights were trained with these: 1e-6 in the norms of the blocks and of the stages, and the default of
# torch.nn.LayerNorm in the norms of the patch embeddings and of the reduced keys. mmsegmentation uses 1e-6 for all,
# which moves the logits of a trained network by about 1e-3.
BLOCK_NORM_EPS = 1e-6
EMBED_NORM_EPS = 1e-5


class ReducedAttention(EfficientMultiheadAttention):
    """Spatially reduced self-attention that never builds the attention matrix in training or test.

    Same parameters and same result as its parent, which asks torch for the averaged attention weights and so holds an
    ``(B, N, M)`` matrix per head; here the fused ``scaled_dot_product_attention`` of torch does the work.
    """

    def forward(self, x: Tensor, hw_shape: tuple[int, int], identity: Tensor | None = None) -> Tensor:
        """``x``: ``(B, N, D)`` with ``N = H * W``; returns ``identity + attention(x)``, ``(B, N, D)``."""
        key_bmd = x
        if self.sr_ratio > 1:
            key_bmd = self.norm(as_tokens(self.sr(as_map(x, hw_shape))))
        attn = self.attn
        weight_q, weight_kv = attn.in_proj_weight.split((self.embed_dims, 2 * self.embed_dims))
        bias_q = bias_kv = None
        if attn.in_proj_bias is not None:
            bias_q, bias_kv = attn.in_proj_bias.split((self.embed_dims, 2 * self.embed_dims))
        query_bhne = self._heads(F.linear(x, weight_q, bias_q))
        key_bhme, value_bhme = (self._heads(part) for part in F.linear(key_bmd, weight_kv, bias_kv).chunk(2, dim=-1))
        dropout = attn.dropout if self.training else 0.0
        out_bhne = F.scaled_dot_product_attention(query_bhne, key_bhme, value_bhme, dropout_p=dropout)
        out = attn.out_proj(out_bhne.transpose(1, 2).flatten(2))
        return (x if identity is None else identity) + self.dropout_layer(self.proj_drop(out))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class TokenFFN(BaseModule):
    """The layers of a ``MixFFN``, under their names: 1x1 and depthwise 3x3 convolution, activation, 1x1 convolution.

    On tokens a 1x1 convolution is a linear map, so nothing is moved between the two layouts.
    """

    def __init__(self, ffn: MixFFN) -> None:
        super().__init__()
        self.layers, self.dropout_layer = ffn.layers, ffn.dropout_layer

    def forward(self, x: Tensor, hw_shape: tuple[int, int], identity: Tensor | None = None) -> Tensor:
        """``x``: ``(B, N, D)`` with ``N = H * W``; returns ``identity + ffn(x)``, ``(B, N, D)``."""
        widen, depthwise, activate, drop, narrow, _ = self.layers
        hidden = as_tokens(depthwise(as_map(pointwise(widen, x), hw_shape)))
        out = drop(pointwise(narrow, drop(activate(hidden))))
        return (x if identity is None else identity) + self.dropout_layer(out)


def pointwise(conv: nn.Conv2d, tokens_bnd: Tensor) -> Tensor:
    """A 1x1 convolution on tokens."""
    return F.linear(tokens_bnd, conv.weight.flatten(1), conv.bias)


def as_map(tokens_bnd: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    """``(B, N, D)`` as ``(B, D, H, W)``; for contiguous tokens a view in channels-last order."""
    return tokens_bnd.transpose(1, 2).unflatten(2, hw_shape)


def as_tokens(map_bdhw: Tensor) -> Tensor:
    """``(B, D, H, W)`` as ``(B, N, D)``; for a channels-last map a contiguous view."""
    return map_bdhw.flatten(2).transpose(1, 2)


@MODELS.register_module()
class MiT(MixVisionTransformer):
    """mmsegmentation's ``MixVisionTransformer`` with the layer-norm constants the published weights were trained with.

    Args:
        arch: ``"b0"`` to ``"b5"``, or None to give every size by hand.
        drop_path_rate: stochastic depth; 0.1 as in SegFormer and DAFormer.
        kwargs: those of ``MixVisionTransformer``; they win over ``arch``.

    Input ``(B, 3, H, W)``; output four maps at 1/4, 1/8, 1/16 and 1/32 of the size, in channels-last order. Parameter
    names are those of ``MixVisionTransformer``: its checkpoints load, and :mod:`pipa.mmseg.checkpoints.convert`
    converts SegFormer's. ``with_cp=True`` keeps one map per block for the backward pass and computes the rest again.

    >>> import torch
    >>> from pipa.mmseg import MiT
    >>> [tuple(feat_bdhw.shape) for feat_bdhw in MiT(arch="b0")(torch.zeros(1, 3, 64, 64))]
    [(1, 32, 16, 16), (1, 64, 8, 8), (1, 160, 4, 4), (1, 256, 2, 2)]
    """

    def __init__(self, arch: str | None = None, drop_path_rate: float = 0.1, **kwargs: Any) -> None:
        if arch is not None:
            if arch not in ARCHITECTURES:
                raise ValueError(f"MiT: arch must be one of {', '.join(ARCHITECTURES)}, got {arch!r}")
            kwargs = {"num_heads": (1, 2, 5, 8), **ARCHITECTURES[arch], **kwargs}
        norm_cfg = kwargs.setdefault("norm_cfg", {"type": "LN", "eps": BLOCK_NORM_EPS})
        super().__init__(drop_path_rate=drop_path_rate, **kwargs)
        attn_drop = kwargs.get("attn_drop_rate", 0.0)
        proj_drop = kwargs.get("drop_rate", 0.0)
        drop_paths = torch.linspace(0, drop_path_rate, sum(self.num_layers)).tolist()
        for patch_embed, blocks, _ in self.layers:
            _set_eps(patch_embed.norm)
            for block in blocks:
                old = block.attn
                block.attn = ReducedAttention(
                    embed_dims=old.embed_dims,
                    num_heads=old.num_heads,
                    attn_drop=attn_drop,
                    proj_drop=proj_drop,
                    dropout_layer={"type": "DropPath", "drop_prob": drop_paths.pop(0)},
                    qkv_bias=kwargs.get("qkv_bias", True),
                    norm_cfg=norm_cfg,
                    sr_ratio=old.sr_ratio,
                )
                if old.sr_ratio > 1:
                    _set_eps(block.attn.norm)
                block.ffn = TokenFFN(block.ffn)
                # Done by this class: the parent's way breaks gradients that are asked for without `backward`.
                block.with_cp = False

    def forward(self, x: Tensor) -> list[Tensor]:
        outs = []
        for i, (patch_embed, blocks, norm) in enumerate(self.layers):
            tokens, hw_shape = patch_embed(x)
            for block in blocks:
                if self.with_cp and torch.is_grad_enabled():
                    tokens = checkpoint(block, tokens, hw_shape, use_reentrant=False)
                else:
                    tokens = block(tokens, hw_shape)
            x = as_map(norm(tokens), hw_shape)
            if i in self.out_indices:
                outs.append(x)
        return outs

    def init_weights(self) -> None:
        """As the parent's, but a local file of weights may be SegFormer's own and must hold every weight."""
        init = self.init_cfg if isinstance(self.init_cfg, dict) else {}
        path = str(init.get("checkpoint", ""))
        if init.get("type") != "Pretrained" or "://" in path:
            super().init_weights()
            return
        from pipa.mmseg.models.backbones.pretrained import load_encoder  # it builds encoders itself

        load_encoder(self, path)

    @property
    def out_channels(self) -> Sequence[int]:
        """Channels of the maps this encoder returns."""
        return [self.embed_dims * self.num_heads[i] for i in self.out_indices]


def _set_eps(norm: nn.Module) -> None:
    if isinstance(norm, nn.LayerNorm):
        norm.eps = EMBED_NORM_EPS
