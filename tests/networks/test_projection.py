"""`projection_layers`: which encoder maps the embeddings see, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pipa import PipaStep
from pipa.networks import ProjectionHead
from pipa.networks.projection import channels_read, concatenate
from small_nets import OFF, SmallNet, small_batch, small_step

MAPS = [(2, 8, 16, 16), (2, 12, 8, 8), (2, 5, 4, 4)]


@pytest.mark.parametrize(("layers", "read"), [(None, [0, 1, 2]), ([-1], [2]), ([0, -2], [0, 1])])
def test_only_the_named_maps_reach_the_embedding(layers: list[int] | None, read: list[int]) -> None:
    maps = [torch.randn(size, requires_grad=True) for size in MAPS]
    head = ProjectionHead(channels_read([8, 12, 5], layers), 6, 7, layers)
    embedding = head(maps)
    assert embedding.shape == (2, 6, 16, 16)  # the finest map's size, whoever is read
    gradients = torch.autograd.grad(embedding.square().sum(), maps, allow_unused=True)
    assert [i for i, gradient in enumerate(gradients) if gradient is not None] == read


def test_order_is_that_of_the_setting() -> None:
    maps: list[Tensor] = [torch.randn(size) for size in MAPS]
    head = ProjectionHead(13, 6, 7, [2, 0]).eval()
    resized = torch.nn.functional.interpolate(maps[2], (16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(head(maps), head(torch.cat([resized, maps[0]], dim=1)))


@pytest.mark.parametrize("layers", [None, [-1], [2, 0]])
def test_value_and_gradients_are_those_of_the_joined_maps(layers: list[int] | None) -> None:
    """The convolution is done map by map, each at its own size; in float64 nothing but the order of sums differs."""
    maps = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in MAPS]
    head = ProjectionHead(channels_read([8, 12, 5], layers), 6, 7, layers).double()
    leaves = [m for i, m in enumerate(maps) if layers is None or i in [n % 3 for n in layers]] + list(head.parameters())
    mine, plain = head(maps), head.project(concatenate(maps, layers))
    torch.testing.assert_close(mine, plain, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(mine)
    for a, b in zip(*(torch.autograd.grad((x * weight).sum(), leaves) for x in (mine, plain)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_the_step_hands_it_on() -> None:
    """Its head reads fewer channels."""
    settings = {**OFF, "pixel_weight": 0.1}
    _, every = small_step(**settings)
    channels = every.heads["pixel_head"].in_channels
    _, first = small_step(**settings, projection_layers=[0])
    assert first.heads["pixel_head"].in_channels < channels
    log = first(*small_batch())
    assert float(log["loss_pixel"]) > 0


@pytest.mark.parametrize(
    ("name", "value", "usual"),
    [("projection_layers", [0], None), ("projection_hidden", 8, 256), ("pixel_dim", 16, 256), ("patch_dim", 16, 128)],
)
def test_beside_heads_of_the_caller_a_setting_of_heads_is_refused(name: str, value: Any, usual: Any) -> None:
    settings: dict[str, Any] = {
        **OFF,
        "num_classes": 4,
        "pixel_weight": 0.1,
        "patch_weight": 0.1,
        "patch_size": [16, 16],
    }
    own = {f"{term}_head": ProjectionHead(14, 12, 10) for term in ("pixel", "patch")}
    heads = torch.nn.ModuleDict(own)
    PipaStep(SmallNet(), heads=heads, **settings)
    PipaStep(SmallNet(), heads=heads, **settings, pixel_dim=12, patch_dim=12, projection_hidden=10)
    whole = torch.nn.ModuleDict({key: ProjectionHead(8, 256, layers=[-1]) for key in own})
    PipaStep(SmallNet(), heads=whole, **settings, patch_dim=256, projection_hidden=None, projection_layers=(-1,))
    with pytest.raises(ValueError, match=rf"{name}: expected its default, {usual}, or what the heads= .* got "):
        PipaStep(SmallNet(), heads=heads, **settings, **{name: value})


@pytest.mark.parametrize("layers", [[], [3], [-4], [0, -3], [1, 1], "deep", [True], -1, [0.0]])
def test_what_names_no_map_is_refused(layers: Any) -> None:
    with pytest.raises(ValueError, match=r"projection_layers: expected different positions of the encoder's 3 maps"):
        channels_read([8, 12, 5], layers)
