"""Transformers of timm that are small enough for tests, and files of weights in the layouts of their publishers."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from torch import Tensor, nn

DIM, DEPTH = 32, 4
SMALL: dict[str, Any] = {"embed_dim": DIM, "depth": DEPTH, "num_heads": 2}
NAMES = {
    "dinov2": "vit_small_patch14_dinov2",
    "dinov2_registers": "vit_small_patch14_reg4_dinov2",
    "dinov3": "vit_small_patch16_dinov3_qkvb",
}


def config(kind: str, **changes: Any) -> dict[str, Any]:
    """A ``ViTPyramid`` of 32 channels and 4 blocks; DINOv2's positions are of 3 x 3 patches."""
    name = NAMES.get(kind, kind)
    size = {"img_size": 42} if "patch14" in name else {}
    return {"type": "ViTPyramid", "model_name": name, **SMALL, **size, **changes}


def build(kind: str, **changes: Any) -> Any:
    return MODELS.build(ConfigDict(config(kind, **changes)))


def scramble(module: nn.Module, seed: int = 0) -> Any:
    """Weights far from their start, at which residual branches would hardly count."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return module


def released(kind: str, seed: int = 1) -> dict[str, Tensor]:
    """Names and shapes of a released file of DINOv2 (with or without registers) or DINOv3."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    patch = 16 if kind == "dinov3" else 14
    state = {"cls_token": draw(1, 1, DIM), "mask_token": draw(1, DIM)}
    if kind == "dinov3":
        state.update({"mask_token": draw(1, DIM), "storage_tokens": draw(1, 4, DIM), "rope_embed.periods": draw(4)})
    else:
        state["pos_embed"] = draw(1, 10, DIM)
        if kind == "dinov2_registers":
            state["register_tokens"] = draw(1, 4, DIM)
    state.update({"patch_embed.proj.weight": draw(DIM, 3, patch, patch), "patch_embed.proj.bias": draw(DIM)})
    for i in range(DEPTH):
        shapes = {
            "norm1.weight": (DIM,),
            "norm1.bias": (DIM,),
            "attn.qkv.weight": (3 * DIM, DIM),
            "attn.qkv.bias": (3 * DIM,),
            "attn.proj.weight": (DIM, DIM),
            "attn.proj.bias": (DIM,),
            "ls1.gamma": (DIM,),
            "norm2.weight": (DIM,),
            "norm2.bias": (DIM,),
            "mlp.fc1.weight": (4 * DIM, DIM),
            "mlp.fc1.bias": (4 * DIM,),
            "mlp.fc2.weight": (DIM, 4 * DIM),
            "mlp.fc2.bias": (DIM,),
            "ls2.gamma": (DIM,),
        }
        state.update({f"blocks.{i}.{name}": draw(*shape) for name, shape in shapes.items()})
        if kind == "dinov3":
            ones = torch.ones(DIM)
            state[f"blocks.{i}.attn.qkv.bias_mask"] = torch.cat([ones, 0 * ones, ones])
    state.update({"norm.weight": draw(DIM), "norm.bias": draw(DIM)})
    return state


def forward(state: dict[str, Tensor], image: Tensor, hidden_n: Tensor | None = None) -> list[Tensor]:
    """A slow transformer after the papers, from a released state: maps of all blocks of one image.

    Positions of DINOv2 must be as many as the image has patches. Loops over heads; no library's attention. Patches that
    are hidden (bool, row by row) become the mask token before they get their position.
    """
    rotary = "storage_tokens" in state
    patch = state["patch_embed.proj.weight"].shape[-1]
    grid = [n // patch for n in image.shape[2:]]
    cells = image[0].unfold(1, patch, patch).unfold(2, patch, patch).permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1)
    x = cells @ state["patch_embed.proj.weight"].flatten(1).T + state["patch_embed.proj.bias"]
    if hidden_n is not None:
        x = torch.where(hidden_n[:, None], state["mask_token"], x)
    first = state["cls_token"][0]
    extra = state["storage_tokens"][0] if rotary else state.get("register_tokens", torch.zeros(1, 0, DIM))[0]
    if not rotary:
        x, first = x + state["pos_embed"][0, 1:], first + state["pos_embed"][0, :1]
    x = torch.cat([first, extra, x])
    eps, skip, maps = 1e-5 if rotary else 1e-6, 1 + len(extra), []

    def norm(name: str, value: Tensor) -> Tensor:
        mean, var = value.mean(1, keepdim=True), value.var(1, keepdim=True, unbiased=False)
        return (value - mean) / (var + eps).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    for i in range(DEPTH):
        name = f"blocks.{i}"
        bias = state[f"{name}.attn.qkv.bias"] * state.get(f"{name}.attn.qkv.bias_mask", torch.ones(1))
        qkv = norm(f"{name}.norm1", x) @ state[f"{name}.attn.qkv.weight"].T + bias
        heads = []
        for h in range(2):
            q, k, v = (qkv[:, part * DIM + 16 * h : part * DIM + 16 * (h + 1)] for part in range(3))
            if rotary:
                q, k = rotated(q, grid, skip), rotated(k, grid, skip)
            heads.append(torch.softmax(q @ k.T / 4, 1) @ v)
        attention = torch.cat(heads, 1) @ state[f"{name}.attn.proj.weight"].T + state[f"{name}.attn.proj.bias"]
        x = x + state[f"{name}.ls1.gamma"] * attention
        hidden = norm(f"{name}.norm2", x) @ state[f"{name}.mlp.fc1.weight"].T + state[f"{name}.mlp.fc1.bias"]
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        out = hidden @ state[f"{name}.mlp.fc2.weight"].T + state[f"{name}.mlp.fc2.bias"]
        x = x + state[f"{name}.ls2.gamma"] * out
        maps.append(norm("norm", x)[skip:].T.reshape(1, DIM, *grid))
    return maps


def rotated(x_ne: Tensor, grid: list[int], skip: int) -> Tensor:
    """DINOv3's rotation of each patch by its place in [-1, 1]: pairs (c, c + E/2); a quarter of E for y, one for x."""
    out, size = x_ne.clone(), x_ne.shape[1]
    for n in range(grid[0] * grid[1]):
        place = [2 * ((n // grid[1]) + 0.5) / grid[0] - 1, 2 * ((n % grid[1]) + 0.5) / grid[1] - 1]
        for axis in range(2):
            for k in range(size // 4):
                angle = torch.tensor(2 * torch.pi * place[axis] / 100 ** (2 * k / (size / 2)))
                c = axis * (size // 4) + k
                a, b = x_ne[skip + n, c], x_ne[skip + n, c + size // 2]
                out[skip + n, c] = a * angle.cos() - b * angle.sin()
                out[skip + n, c + size // 2] = b * angle.cos() + a * angle.sin()
    return out
