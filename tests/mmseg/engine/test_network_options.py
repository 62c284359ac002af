"""What makes the networks faster or smaller must not change what they learn, and a resume stays exact with it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.runner import Runner
from torch import nn

import tiny
from pipa.mmseg.engine.network_options import Tuning, checkpoint_activations, parts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.data(tmp_path_factory.mktemp("data"))


def trained(data: Path, work_dir: Path, change: dict[str, Any] | None = None, **settings: Any) -> Runner:
    """Three iterations; `change` goes into the config's top level."""
    kind = settings.pop("kind", "daformer")
    cfg = tiny.config(data, work_dir, kind, iterations=3, **settings)
    cfg["default_hooks"]["checkpoint"]["interval"] = 1000
    for key, value in (change or {}).items():
        cfg[key] = {**cfg[key], **value} if isinstance(cfg.get(key), dict) else value
    return tiny.train(cfg)


def largest_difference(a: Runner, b: Runner) -> float:
    states = (tiny.everything(a), tiny.everything(b))
    pairs = [(states[0][part][k], states[1][part][k]) for part in ("student", "teacher") for k in states[0][part]]
    # Relative to the largest value of a tensor, where that is above one (running variances).
    return max(float((x.double() - y.double()).abs().max() / y.double().abs().max().clamp(min=1)) for x, y in pairs)


@pytest.mark.parametrize(
    ("kind", "modules"), [("daformer", ["backbone", "decode_head"]), ("hrda", ["backbone", "decode_head.head"])]
)
def test_activation_checkpoints_change_nothing(kind: str, modules: list[str], data: Path, tmp_path: Path) -> None:
    """Weights, running statistics of batch norms, teacher and optimiser are equal to the last bit.

    The norms of each term's gradient take a backward pass of their own, in which the modules run once more.
    """
    plain = trained(data, tmp_path / "plain", kind=kind)
    small = trained(data, tmp_path / "small", kind=kind, activation_checkpointing=modules, gradient_interval=2)
    assert tiny.differences(tiny.everything(plain), tiny.everything(small)) == []


def test_with_cp_of_the_encoder_changes_nothing(data: Path, tmp_path: Path) -> None:
    plain = trained(data, tmp_path / "plain", gradient_interval=1)
    model = tiny.model("daformer")
    model["backbone"]["with_cp"] = True
    small = trained(data, tmp_path / "small", {"model": model}, gradient_interval=1)
    assert tiny.differences(tiny.everything(plain), tiny.everything(small)) == []


def test_activation_checkpoints_run_a_module_twice() -> None:
    calls = []

    class Layer(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            calls.append(torch.is_grad_enabled())
            return super().forward(input).exp()

    net = nn.Sequential(Layer(3, 3, 1), nn.BatchNorm2d(3))
    checkpoint_activations(net)
    net(torch.rand(2, 3, 4, 4)).sum().backward()
    assert len(calls) == 2
    assert int(net[1].num_batches_tracked) == 1
    with torch.no_grad():
        net(torch.rand(2, 3, 4, 4))
    assert len(calls) == 3


# AdamW's first steps are the sign of the gradient, whatever its size: rounding would decide some of them.
SGD: dict[str, Any] = {"optim_wrapper": {"optimizer": dict(type="SGD", lr=1e-2, weight_decay=0.01)}}


def test_compiled_networks_learn_the_same(data: Path, tmp_path: Path) -> None:
    model = tiny.model("daformer")
    model["backbone"]["drop_path_rate"] = model["decode_head"]["dropout_ratio"] = 0.0  # compiled noise is other noise
    plain = trained(data, tmp_path / "plain", {"model": model, **SGD}, gradient_interval=2)
    options = dict(compile=dict(backend="aot_eager"), gradient_interval=2)  # norms keep the graph for further passes
    fast = trained(data, tmp_path / "fast", {"model": model, **SGD}, **options)
    assert all(part._compiled_call_impl is not None for part in parts(fast.model))
    assert largest_difference(plain, fast) < 1e-4


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compile_makes_machine_code_on_the_cpu() -> None:
    net = nn.Module()
    net.backbone = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))
    x = torch.randn(3, 4)
    expected = net.backbone(x)
    names = list(net.state_dict())
    Tuning(True, [], False).apply(net)
    torch.testing.assert_close(net.backbone(x), expected)
    assert net.backbone._compiled_call_impl is not None
    assert list(net.state_dict()) == names


def test_channels_last_learns_the_same(data: Path, tmp_path: Path) -> None:
    plain = trained(data, tmp_path / "plain", SGD)
    other = trained(data, tmp_path / "other", SGD, channels_last=True)
    weight = other.model.backbone.layers[0][0].projection.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert largest_difference(plain, other) < 1e-4


def test_the_optimiser_follows_a_change_of_order() -> None:
    """Its loaded state may be of a run in the other order: the fused kernel goes through both as they lie in memory."""
    net = nn.Conv2d(3, 4, 3)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    net(torch.randn(1, 3, 5, 5)).square().sum().backward()
    optimizer.step()
    kept = optimizer.state[net.weight]["exp_avg"].clone()
    Tuning(False, [], True).apply(net, optimizer=optimizer)
    found = optimizer.state[net.weight]["exp_avg"]
    assert found.stride() == net.weight.stride() != kept.stride()
    assert torch.equal(found, kept)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"compile": True}, {}, "set pipa.compile instead"),
        ({"activation_checkpointing": ["backbone"]}, {}, "set pipa.activation_checkpointing instead"),
        ({}, {"activation_checkpointing": ["bakcbone"]}, "has no module 'bakcbone'"),
        ({}, {"activation_checkpointing": ["backbone"], "compile": True}, "choose one"),
    ],
)
def test_what_cannot_work_is_refused(
    change: dict[str, Any], settings: dict[str, Any], message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        trained(data, tmp_path, change, **settings)


@pytest.mark.parametrize("wrapper", ["OptimWrapper", "AutocastOptimWrapper"])
def test_a_resume_is_exact_with_the_fused_optimiser(wrapper: str, data: Path, tmp_path: Path) -> None:
    """As the shipped configs have it, and in bfloat16."""

    def cfg(work_dir: Path, iterations: int) -> dict[str, Any]:
        made = tiny.config(data, work_dir, iterations=iterations)
        made["optim_wrapper"]["type"] = wrapper
        made["optim_wrapper"]["optimizer"]["fused"] = True
        return made

    whole = tiny.train(cfg(tmp_path / "whole", 4))
    tiny.train(cfg(tmp_path / "parts", 2))
    resumed = tiny.train(cfg(tmp_path / "parts", 4), resume=True)
    assert resumed.iter == 4
    assert resumed.optim_wrapper.optimizer.defaults["fused"]
    assert tiny.differences(tiny.everything(whole), tiny.everything(resumed)) == []
