"""What of a pretrained transformer is trained: all of it, nothing, or low-rank adapters (LoRA, by the package peft)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

from torch import nn

from pipa.mmseg.checkpoints.adapters import BASE, LORA

Mode: TypeAlias = Literal["full", "lora", "frozen"]
MODES = ("full", "lora", "frozen")


def apply_mode(vit: nn.Module, mode: Mode, lora: dict[str, Any] | None = None) -> None:
    """Freeze a transformer of timm, or give its blocks adapters; in place.

    Args:
        mode: ``"full"`` leaves it as it is, ``"frozen"`` freezes all of it, ``"lora"`` freezes it and adds to each
            target y = W x the term (alpha / rank) B A x with A (rank, D_in) random and B (D_out, rank) zero, so that
            the first pass is that of the pretrained network.
        lora: ``rank`` (16), ``alpha`` (16), ``dropout`` of x before A (0), ``targets``: names of linear layers inside a
            block, attention's ``("attn.qkv", "attn.proj")`` by default; ``"mlp.fc1", "mlp.fc2"`` are others.

    Raises:
        ValueError: another mode, an unknown setting, ``lora`` without its mode, or a target that no block has.
        ImportError: peft is missing.
    """
    if mode not in MODES:
        raise ValueError(f"encoder: expected one of {', '.join(MODES)}, got {mode!r}")
    if lora is not None and mode != "lora":
        raise ValueError(f"lora: expected encoder='lora' beside it, got encoder={mode!r}")
    if mode == "full":
        return
    vit.requires_grad_(False)
    if mode == "lora":
        add_adapters(vit, {**LORA, **checked(lora or {})})


def checked(lora: dict[str, Any]) -> dict[str, Any]:
    """Settings with known names and possible values."""
    unknown = sorted(set(lora) - set(LORA))
    if unknown:
        raise ValueError(f"lora: expected keys of {', '.join(LORA)}, got {unknown[0]!r}")
    if lora.get("rank", 1) < 1:
        raise ValueError(f"lora.rank: expected at least 1, got {lora['rank']}")
    return lora


def add_adapters(vit: nn.Module, lora: dict[str, Any]) -> None:
    """Put peft's LoRA layers in the place of the targets."""
    targets = [str(target) for target in lora["targets"]]
    for target in targets:
        if not any(re.fullmatch(rf"blocks\.\d+\.{re.escape(target)}", name) for name, _ in vit.named_modules()):
            raise ValueError(f"lora.targets: expected layers of the blocks of {type(vit).__name__}, got {target!r}")
    try:
        import peft
    except ImportError as error:
        raise ImportError('encoder="lora" needs peft: pip install "pipa-rs[lora]"') from error
    for module in vit.modules():
        # Some of timm's attentions use the weight of qkv without calling it, which would pass the adapter by.
        if hasattr(module, "qkv_bias_separate"):
            setattr(module, "qkv_bias_separate", True)  # noqa: B010  (an attribute of some of timm's classes alone)
    config = peft.LoraConfig(
        r=int(lora["rank"]),
        lora_alpha=float(lora["alpha"]),  # type: ignore[arg-type]
        lora_dropout=float(lora["dropout"]),
        target_modules=r"blocks\.\d+\.(?:" + "|".join(map(re.escape, targets)) + ")",
        bias="none",
    )
    peft.inject_adapter_in_model(config, vit)


def adapted(module: nn.Module) -> Iterator[str]:
    """Names of the layers that have an adapter."""
    for name, layer in module.named_modules():
        if hasattr(layer, "base_layer") and hasattr(layer, "lora_A"):
            yield name


def base_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before loading: weights of a network without adapters go to the layers below the adapters."""
    for name in adapted(module):
        for kind in ("weight", "bias"):
            plain = f"{prefix}{name}.{kind}"
            if plain in state:
                state[f"{prefix}{name}{BASE}.{kind}"] = state.pop(plain)
