"""Networks inside PyTorch's wrappers train as they do without."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from torch.nn import functional
from torch.nn.parallel import DataParallel, DistributedDataParallel

from pipa import PipaStep
from small_nets import ALL_TERMS, CLASSES, OFF, SmallNet, small_batch, small_step

pytestmark = pytest.mark.slow


class Stage(nn.Module):
    """Functional dropout, which only its owner's mode silences."""

    def __init__(self, channels: int, out: int, dropout: float) -> None:
        super().__init__()
        self.conv, self.norm, self.dropout = nn.Conv2d(channels, out, 2, 2), nn.BatchNorm2d(out), dropout

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout2d(self.norm(self.conv(x)).relu(), self.dropout, self.training)


class Net(nn.Module):
    """Logits alone; the maps are those of the layers of ``encoder``."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = nn.Sequential(Stage(3, 8, 0.0), Stage(8, 8, dropout))
        self.classifier = nn.Conv2d(8, CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.encoder(image))


@pytest.fixture
def _processes(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", world_size=1, rank=0)
    yield
    distributed.destroy_process_group()


def trained(student: nn.Module, core: nn.Module) -> tuple[list[float], list[Tensor]]:
    """Losses of two iterations, and the parameters after them."""
    torch.manual_seed(1)
    imagenet = Net()
    step = PipaStep(
        student, pixel_dim=8, patch_dim=8, projection_hidden=8, features="encoder", imagenet=imagenet, **ALL_TERMS
    )
    optimizer = torch.optim.SGD([*core.parameters(), *step.head_parameters()], lr=0.05)
    losses = []
    for seed in range(2):
        optimizer.zero_grad()
        losses.append(float(step(*small_batch(seed))["loss"]))
        optimizer.step()
    return losses, [*core.parameters(), *step.teacher.parameters()]


def compiled_in_place(net: nn.Module) -> nn.Module:
    net.compile(backend="eager")
    return net


def checkpointed(net: nn.Module) -> nn.Module:
    net.encoder[1] = checkpoint_wrapper(net.encoder[1], checkpoint_impl=CheckpointImpl.NO_REENTRANT)
    return net


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "torch.compile": lambda net: torch.compile(net, backend="eager"),
    "module.compile": compiled_in_place,
    "DataParallel": DataParallel,
    "DistributedDataParallel": DistributedDataParallel,
    "compiled and distributed": lambda net: DistributedDataParallel(torch.compile(net, backend="eager")),
    "activation checkpointing": checkpointed,
}


@pytest.mark.usefixtures("_processes")
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_network_trains_as_the_plain_one(name: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    core = Net().train()
    twin = copy.deepcopy(core)
    expected, weights = trained(twin, twin)
    losses, found = trained(WRAPPERS[name](core), core)
    assert losses == pytest.approx(expected, rel=1e-6)
    for one, two in zip(found, weights, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.usefixtures("_processes")
def test_sharded_networks_are_refused_with_the_reason() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    net = fully_shard(Net(), mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(ValueError, match=r"student: its parameters are sharded .*moving average of whole parameters"):
        PipaStep(net, features="encoder", **ALL_TERMS)


def test_a_reentrant_checkpoint_is_refused() -> None:
    """Its inner maps carry no gradient."""
    net = Net().train()
    net.encoder = checkpoint_wrapper(net.encoder, checkpoint_impl=CheckpointImpl.REENTRANT)
    step = PipaStep(net, features="encoder.0", imagenet=Net(), **ALL_TERMS)
    with pytest.raises(ValueError, match="use_reentrant=True"):
        step(*small_batch())


def test_gradient_norms_of_a_compiled_network_name_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its backward pass reuses the memory of what it has read, unless it is told not to."""
    for reuses in (True, False):
        monkeypatch.setattr("torch._functorch.config.donated_buffer", reuses)
        torch._dynamo.reset()
        _, step = small_step(torch.compile(SmallNet().train(), backend="aot_eager"), **{**OFF, "mix_weight": 1})
        if reuses:
            with pytest.raises(ValueError, match=r"log_gradients: .*config.donated_buffer = False"):
                step(*small_batch(), log_gradients=True)
        else:
            assert float(step(*small_batch(), log_gradients=True)["grad_norm_source"]) > 0


def test_lazy_layers_are_refused_before_they_have_seen_an_image() -> None:
    with pytest.raises(ValueError, match="student: has lazy layers"):
        PipaStep(nn.Sequential(nn.LazyConv2d(CLASSES, 1)), **ALL_TERMS)


def test_functional_dropout_is_silent_in_the_teacher() -> None:
    """The teacher's modules do not train, except for batch norm, which uses the batch's statistics."""
    torch.manual_seed(0)
    net = Net(dropout=0.5).train()
    step = PipaStep(net, features="encoder", imagenet=Net(), **ALL_TERMS)
    image = small_batch()[0]
    assert not torch.equal(net(image), net(image))
    assert torch.equal(step.networks.teacher(image), step.networks.teacher(image))
    assert step.teacher.encoder[1].norm.training
    assert not step.teacher.encoder[1].training
    # As without dropout, in training mode.
    quiet = copy.deepcopy(step.teacher).train()
    quiet.encoder[1].dropout = 0.0
    torch.testing.assert_close(step.networks.teacher(image), quiet(image))


class Noisy(Net):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) + torch.rand(())


def test_noise_that_no_mode_silences_is_reported() -> None:
    with pytest.warns(UserWarning, match="the teacher's answers to one image differ"):
        PipaStep(Noisy().train(), features="encoder", imagenet=Net(), **ALL_TERMS)


def test_known_noisy_modules_are_silent_in_the_teacher() -> None:
    """Dropout of every kind, RReLU, and the drop-path of torchvision and timm."""
    torch.manual_seed(0)
    kinds: list[Any] = [nn.Dropout(0.5), nn.Dropout2d(0.5), nn.AlphaDropout(0.5), nn.FeatureAlphaDropout(0.5)]
    kinds += [nn.RReLU()]
    kinds += [pytest.importorskip("torchvision").ops.StochasticDepth(0.5, "row")]
    kinds += [pytest.importorskip("torchvision").ops.DropBlock2d(0.5, 3)]
    kinds += [pytest.importorskip("timm").layers.DropPath(0.5)]
    image = small_batch()[0]
    for kind in kinds:
        net = Net().train()
        net.encoder.append(nn.Sequential(nn.BatchNorm2d(8), kind))
        step = PipaStep(net, features="encoder", imagenet=copy.deepcopy(net), **ALL_TERMS)
        assert not all(torch.equal(net(image), net(image)) for _ in range(4)), kind
        assert torch.equal(step.networks.teacher(image), step.networks.teacher(image)), kind
